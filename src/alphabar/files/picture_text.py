"""Text inside pictures: what a PNG or a GIF says of itself, in chunks that other programs show and keep."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from alphabar.errors import UserError, printable
from alphabar.files.paths import display_path
from alphabar.files.reading import known_formats, must_be_file

PictureText = Mapping[str, str]  # by key, each a line
# The keys in the order in which they are shown; nothing else in a picture is read.
KEYS = (
    "Software", "Revision", "Command", "Checkpoint", "Step", "Weights", "Sampler", "Guidance", "Seed", "Index", "Column",
)  # fmt: skip
MAX_LENGTH = 8000  # characters of a value, written or read


def write_png(image: Image.Image, file: BinaryIO | io.BytesIO, text: PictureText) -> None:
    """Writes an image as PNG with a chunk tEXt for each key, or iTXt for text beyond Latin-1, before the pixels."""
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, cut(value))
    image.save(file, "PNG", pnginfo=info)


def gif_comment(text: PictureText) -> bytes:
    """Returns the text as the comment of a GIF: a line `key: value` for each key, in UTF-8."""
    return "\n".join(f"{key}: {cut(value)}" for key, value in text.items()).encode()


def cut(value: str) -> str:
    """Returns a text as one line of printable characters, cut if it is very long."""
    line = printable(value)
    return line if len(line) <= MAX_LENGTH else f"{line[:MAX_LENGTH]}... (cut)"


def read_picture_text(path: Path) -> dict[str, str]:
    """Returns what a PNG or a GIF of ours says of itself, without decoding its pixels; empty if it says nothing.

    A picture may come from anybody: only known keys are read, with printable characters and of bounded length. Raises UserError for
    a file that is no such picture.
    """
    try:
        must_be_file(path)
        with Image.open(path, formats=known_formats()) as image:  # `open_image` leaves the text out, which Pillow bounds
            if image.format not in ("PNG", "GIF"):
                raise UserError(
                    f"{display_path(path)}: is a {image.format}, need a PNG or a GIF; other programs may have dropped the text"
                )
            found = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
            if isinstance(comment := image.info.get("comment"), bytes):
                lines = comment[: 2 * MAX_LENGTH * len(KEYS)].decode(errors="replace").split("\n")
                found |= {key: value for key, colon, value in (line.partition(": ") for line in lines) if colon}
    except UserError:
        raise
    except Exception as error:  # any kind: a file may contain any bytes
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it cannot be read as a picture"
        raise UserError(f"{display_path(path)}: {reason}") from error
    return {key: cut(found[key]) for key in KEYS if key in found}
