"""A folder of images, flat or nested."""

import hashlib
import unicodedata
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.captions import captions_of
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.decoded import DecodedImages, ImageReader
from alphabar.data.files import SUFFIXES, fingerprint, image_files
from alphabar.errors import UserError


class FileReader(ImageReader):
    """The image files `names` under `root`."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image.Image:
        return Image.open(self.root / self.names[index])

    def name(self, index: int) -> str:
        return str(self.root / self.names[index])


class FolderSource(ImageSource):
    """All images under `root`, each cropped to its centred square and scaled to `resolution`.

    The classes are the first-level folders, where all images lie in two or more of them. Hidden files and folders are
    not looked at. An image is held out, or not, because of its path under `root`: files that come later move no other.
    Captions are those in `metadata.jsonl`, if `root` has one.

    channels: 1 grey, 3 RGB.
    held_out: fraction of the images.
    strict: an image that cannot be read is an error, not a line in the log.
    caption_key: of the captions in the lines of metadata.jsonl, see `captions_of`; None: the file is not looked at.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        channels: int = 3,
        held_out: float = 0.1,
        strict: bool = False,
        caption_key: str | None = "text",
    ) -> None:
        if resolution < 1:
            raise ValueError(f"need resolution >= 1, got {resolution}")
        if channels not in (1, 3):
            raise ValueError(f"need channels 1 (grey) or 3 (RGB), got {channels}")
        if not 0 <= held_out < 1:
            raise ValueError(f"need 0 <= held_out < 1, got {held_out}")
        self.root = Path(root).expanduser().absolute()
        self.fraction = held_out
        self.strict = strict
        self.caption_key = caption_key
        self._shape = Shape(channels, resolution)
        _check(self.root)

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def symmetric(self) -> bool:
        """Returns False: there may be writing in the images, and samples would show mirrored letters."""
        return False

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        paths = [PurePosixPath(name) for _, name in self._files]
        folders = sorted({path.parts[0] for path in paths})
        nested = all(len(path.parts) > 1 for path in paths)
        return tuple(folders) if nested and len(folders) > 1 else None

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        return None if self._captions is None else tuple(sorted(set(self._captions.values())))

    def prepare(self) -> None:
        """Does nothing: the images are the user's own."""

    def train(self) -> ImageSet:
        names = [name for place, name in self._files if place >= self.fraction]
        if not names:
            raise UserError(f"all {len(self._files)} images under {self.root} are held out: set data.held_out=0")
        return self._images(names)

    def held_out(self) -> ImageSet:
        return self._images([name for place, name in self._files if place < self.fraction])

    def fingerprint(self) -> str:
        settings: tuple[float | str, ...] = (*self._shape, self.fraction)
        if self._captions is not None:
            pairs = repr(sorted(self._captions.items())).encode(errors="surrogateescape")
            settings = (*settings, hashlib.blake2b(pairs, digest_size=16).hexdigest())
        return fingerprint(self.root, [name for _, name in self._files], settings)

    @cached_property
    def _files(self) -> list[tuple[float, str]]:
        """Returns (position, name) of each file, sorted by position, a hash of the name that shuffles the classes."""
        return sorted((hash_position(name), name) for name in image_files(self.root))

    @cached_property
    def _captions(self) -> dict[str, str] | None:
        """Returns the caption of each image, by its name."""
        if self.caption_key is None:
            return None
        names = [name for _, name in self._files]
        captions = captions_of(self.root, names, self.caption_key)
        return None if captions is None else dict(zip(names, captions, strict=True))

    def _images(self, names: list[str]) -> ImageSet:
        reader = FileReader(self.root, names)
        return DecodedImages(reader, self._shape, self._labels(names), self.strict, self._caption_ids(names))

    def _labels(self, names: list[str]) -> Tensor | None:
        if self.classes is None:
            return None
        ids = {folder: label for label, folder in enumerate(self.classes)}
        return torch.tensor([ids[PurePosixPath(name).parts[0]] for name in names], dtype=torch.int64)

    def _caption_ids(self, names: list[str]) -> Tensor | None:
        if self._captions is None or self.captions is None:
            return None
        ids = {caption: place for place, caption in enumerate(self.captions)}
        return torch.tensor([ids[self._captions[name]] for name in names], dtype=torch.int64)


def _check(root: Path) -> None:
    wanted = f"data.root names a folder of images ({', '.join(SUFFIXES)})"
    if not root.exists():
        raise UserError(f"there is no folder {root}: {wanted}")
    if not root.is_dir():
        raise UserError(f"{root} is a file: {wanted}")
    if next(root.iterdir(), None) is None:
        raise UserError(f"the folder {root} is empty: {wanted}")
    if next(image_files(root), None) is None:
        raise UserError(f"no images in the folder {root} and its subfolders: {wanted}")


def hash_position(name: str) -> float:
    key = unicodedata.normalize("NFC", name)  # one name, though file systems spell accents in two ways
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48


class Folder(ImageDataModule):
    """The data module of `FolderSource`."""

    def __init__(
        self,
        root: str,
        resolution: int,
        batch_size: int = 64,
        seed: int = 0,
        channels: int = 3,
        held_out: float = 0.1,
        strict: bool = False,
        flip: bool | None = None,
        num_workers: int | None = None,
        resident: bool | None = None,
        max_resident_mb: int = 1024,
        caption_key: str | None = "text",
    ) -> None:
        source = FolderSource(root, resolution, channels, held_out, strict, caption_key)
        super().__init__(source, batch_size, seed, flip, num_workers, resident, max_resident_mb)
