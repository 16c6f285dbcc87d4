"""Images at a path that the user gives, a file or a folder."""

from itertools import islice
from pathlib import Path

from torch import Tensor

from alphabar.bits import Bits
from alphabar.data import Shape
from alphabar.data.decoding.unreadable import unreadable_message
from alphabar.data.folders.files import EXAMPLES, image_files
from alphabar.data.image_sets.decoded import DecodedImages
from alphabar.data.sources.folder import FileReader
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.files.reading import open_image


def read_user_images(path: str, shape: Shape, num: int, bits: Bits) -> Tensor:
    """Returns the first `num` images by name, or as many as there are: [n, C, H, W] of `bits`, read as data=folder does.

    Raises UserError if there are none, or one cannot be read.
    """
    place, names = _find_images(path, num)
    return DecodedImages(FileReader(place, names, bits), shape, labels=None, strict=True).images(range(len(names)))


def common_size(path: str, num: int) -> tuple[int, int] | None:
    """Returns (height, width) of the first `num` images if all have the same, else None.

    Raises UserError if there are none, or one is damaged.
    """
    place, names = _find_images(path, num)
    sizes = set()
    for name in names:
        try:
            with open_image(place / name) as image:
                sizes.add((image.height, image.width))
        except Exception as error:  # any kind: a file may contain any bytes
            raise UserError(f"images={path}: {unreadable_message(name, error)}") from error
    return sizes.pop() if len(sizes) == 1 else None


def _find_images(path: str, num: int) -> tuple[Path, list[str]]:
    """Returns the folder and the names of the first `num` images in it."""
    place = user_path(path).absolute()
    if place.is_dir():
        names = list(islice(image_files(place), num))
    elif place.is_file():
        place, names = place.parent, [place.name]
    else:
        raise UserError(f"images={path}: there is no such file or folder")
    if not names:
        raise UserError(f"images={path}: no images in this folder and its subfolders ({EXAMPLES})")
    return place, names
