"""Pictures inside a page, as data URIs."""

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from alphabar.files.reading import open_image, read_bytes
from alphabar.plotting.sample_corner import newest_samples

MIME_TYPES = {"PNG": "image/png", "GIF": "image/gif", "JPEG": "image/jpeg", "WEBP": "image/webp"}
MAX_BYTES = 600_000  # larger pictures are reduced to JPEGs of at most MAX_SIDE pixels
MAX_SIDE = 1600
SMALL_SIDE = 560  # pixels: pictures up to this are enlarged without smoothing
MAX_FILM_BYTES = 12_000_000


class EmbeddedImage(NamedTuple):
    """A picture as a data URI, or the problem because of which there is none.

    is_reduced: whether the picture has been made smaller than it is in its file.
    """

    uri: str = ""
    width: int = 0
    height: int = 0
    is_reduced: bool = False
    problem: str = ""

    @property
    def is_small(self) -> bool:
        return max(self.width, self.height) <= SMALL_SIDE


def embed_image(path: Path) -> EmbeddedImage | None:
    """Returns the picture in a file, or None if there is no file. Never raises for a broken picture."""
    if not path.exists():
        return None
    try:
        content = read_bytes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_image(io.BytesIO(content)) as file:
                file.load()
                return _encode(content, file)
    except Exception as error:  # any kind: a file may contain any bytes
        return EmbeddedImage(problem=f"{path.name} cannot be shown: {type(error).__name__}")


def _encode(content: bytes, file: Image.Image) -> EmbeddedImage:
    mime_type = MIME_TYPES.get(file.format or "")
    if mime_type is None:
        return EmbeddedImage(problem=f"a picture in the format {file.format} cannot be shown")
    if mime_type == "image/gif" and len(content) > MAX_FILM_BYTES:
        return EmbeddedImage(problem=f"the film is left out: it has {len(content) / 1e6:.0f} MB")
    is_reduced = mime_type != "image/gif" and len(content) > MAX_BYTES
    size = file.size
    if is_reduced:
        small, buffer = file.convert("RGB"), io.BytesIO()
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        small.save(buffer, "JPEG", quality=88)
        content, mime_type, size = buffer.getvalue(), "image/jpeg", small.size
    return EmbeddedImage(_data_uri(content, mime_type), *size, is_reduced)


def _data_uri(content: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def evenly_spaced(files: Sequence[Path], num: int) -> list[Path]:
    """Returns at most `num` of the files, evenly spaced, with the first and the last among them."""
    if len(files) <= num:
        return list(files)
    return [files[round(index * (len(files) - 1) / (num - 1))] for index in range(num)]


def thumbnail(folder: Path) -> EmbeddedImage:
    """Returns the top left corner of the newest samples of a run."""
    try:
        corner = newest_samples(folder)
        if corner is None:
            return EmbeddedImage(problem="no samples")
        picture, buffer = Image.fromarray(corner), io.BytesIO()
        picture.save(buffer, "PNG")
    except Exception:  # any kind, as above
        return EmbeddedImage(problem="samples cannot be read")
    return EmbeddedImage(_data_uri(buffer.getvalue(), "image/png"), *picture.size)
