"""Files of anybody, opened so that nothing waits for ever, starts a program or takes more memory than the file warrants."""

import io
import stat
import warnings
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from alphabar.files.bare_images import JPEG_SIGNATURE, PNG_SIGNATURE, PNG_START, bare_jpeg, bare_png, most_png_bytes

MAX_PIXELS = 2**28  # an image takes 1 GiB while it is decoded, at four bytes a pixel
MAX_JPEG_BYTES = 2**28  # that are read of one whose metadata Pillow refuses
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses images of twice as many, before it takes memory
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # of those between
warnings.filterwarnings("ignore", category=UserWarning, module="PIL\\.")  # of damaged metadata
# The formats that Pillow decodes itself. Not EPS (it starts Ghostscript), WMF and the stubs (which hand files to programs of the
# system), IPTC (which opens a further image by its content, in any format), nor those that nobody keeps images in.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "QOI", "ICO", "PCX", "SGI")
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def must_be_file(path: Path) -> None:
    """Raises OSError unless `path` is a file or a link to one: a pipe, a socket or a device may never come to an end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(f"it is {KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Returns the content of a file. Raises OSError if there is none, if it is not a file, or if it has more than `most` bytes."""
    must_be_file(path)
    if most is not None and path.stat().st_size > most:
        raise OSError(f"it has more than {most:,} bytes")
    return path.read_bytes()


def open_image(source: Path | BinaryIO) -> Image.Image:
    """Returns the image in a file, not decoded yet; its format, one of `FORMATS`, follows from its content and not from its name.

    Damaged metadata does no harm. Raises OSError if it is no file or no such image, Image.DecompressionBombError for one of more
    than `MAX_PIXELS`, and any kind of error for a damaged one.
    """
    if isinstance(source, Path):
        must_be_file(source)
    try:
        return _open_without_metadata(source)
    except Image.DecompressionBombError as error:
        raise Image.DecompressionBombError(f"more than {MAX_PIXELS / 1e6:.0f} million pixels") from error
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError("cannot identify the image") from error


def _open_without_metadata(source: Path | BinaryIO) -> Image.Image:
    """Returns the image, of a PNG without what is no pixel, and of a JPEG only where Pillow takes offence at that."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        start = file.read(PNG_START.size)
        bare = None
        if start.startswith(PNG_SIGNATURE):
            bare = io.BytesIO(bare_png(start + file.read(most_png_bytes(start, MAX_PIXELS))))
        file.seek(0)
    try:
        return Image.open(bare or source, formats=known_formats())
    except Image.DecompressionBombError:
        raise
    except Exception:  # any kind: a file may contain any bytes
        if not start.startswith(JPEG_SIGNATURE):
            raise
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(0)
        return Image.open(io.BytesIO(bare_jpeg(file.read(MAX_JPEG_BYTES))), formats=known_formats())


@cache
def known_formats() -> tuple[str, ...]:
    """Returns those of `FORMATS` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def image_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of the formats in `known_formats`, in lower case, as Pillow lists them."""
    known = known_formats()
    return tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in known))
