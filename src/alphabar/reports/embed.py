"""Pictures inside a page."""

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from alphabar.reports.markup import missing, text

TYPES = {"PNG": "image/png", "GIF": "image/gif", "JPEG": "image/jpeg", "WEBP": "image/webp"}
LARGE = 600_000  # bytes: larger pictures are made smaller
MAX_SIDE = 1600  # pixels of those
SMALL_SIDE = 560  # pixels: pictures up to this are enlarged without smoothing
MAX_FILM = 12_000_000  # bytes
MAX_FRAMES = 40


class Picture(NamedTuple):
    """uri: the picture itself. is_reduced: whether it is not what the file is."""

    uri: str
    width: int
    height: int
    is_reduced: bool


def embed(path: Path) -> Picture | str:
    """The picture in a file; large ones as a JPEG of at most MAX_SIDE pixels. What is wrong with it if it cannot be shown."""
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as file:
                file.load()
                return _embedded(content, file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return f"{path.name} cannot be shown: {type(error).__name__}"


def _embedded(content: bytes, file: Image.Image) -> Picture | str:
    kind = TYPES.get(file.format or "")
    if kind is None:
        return f"a picture in the format {file.format} cannot be shown"
    if kind == "image/gif" and len(content) > MAX_FILM:
        return f"the film is left out: it has {len(content) / 1e6:.0f} MB"
    is_reduced = kind != "image/gif" and len(content) > LARGE
    size = file.size
    if is_reduced:
        small, buffer = file.convert("RGB"), io.BytesIO()
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        small.save(buffer, "JPEG", quality=88)
        content, kind, size = buffer.getvalue(), "image/jpeg", small.size
    return Picture(f"data:{kind};base64,{base64.b64encode(content).decode()}", *size, is_reduced)


def image(found: Picture | str, alt: str) -> str:
    """The <img>, or a line that says why there is none."""
    if isinstance(found, str):
        return missing(found)
    kind = ' class="sharp"' if max(found.width, found.height) <= SMALL_SIDE else ""
    return f'<img src="{found.uri}" width="{found.width}" height="{found.height}" alt="{text(alt)}"{kind}>'


def picture(path: Path, alt: str) -> str:
    """The picture in a file, as HTML; nothing where there is no file."""
    return image(embed(path), alt) if path.exists() else ""


def evenly(files: Sequence[Path], num: int = MAX_FRAMES) -> list[Path]:
    """At most `num` of them, evenly chosen, the first and the last among them."""
    if len(files) <= num:
        return list(files)
    return [files[round(index * (len(files) - 1) / (num - 1))] for index in range(num)]


def thumbnail(folder: Path, alt: str) -> str:
    """The corner of the newest samples of a run."""
    from alphabar.reports.sweep import newest_samples

    if not (folder / "samples").is_dir():
        return '<span class="empty">no samples</span>'
    try:
        array = newest_samples(folder)
        if array is None:
            return '<span class="empty">no samples</span>'
        buffer = io.BytesIO()
        corner = Image.fromarray(array)
        corner.save(buffer, "PNG")
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, Image.DecompressionBombError):
        return '<span class="empty">samples cannot be read</span>'
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return image(Picture(uri, *corner.size, False), alt)
