"""Pictures of many uint8 images, and files of them."""

import io
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from alphabar.data.pixels import pixels_of
from alphabar.files.atomic import atomic_writer, make_folder
from alphabar.files.picture_text import PictureText, gif_comment, write_png

BACKGROUND = 255  # the gaps are white
SMALLEST = 48  # pixels that images in a grid are at least high
CAPTIONED = 96  # pixels that images with captions are at least high and wide, so that there is room for text
LINES = 2  # lines of a caption, at most
NO_TEXT: PictureText = {}
QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
LINE_HEIGHT = 13  # pixels of a line in Pillow's default font


def enlarge(images: Tensor, smallest: int) -> Tensor:
    """Repeats pixels until images [..., H, W] are at least `smallest` high: small images stay sharp."""
    factor = max(1, math.ceil(smallest / images.shape[-2]))
    return images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def grid(images: Tensor, num_columns: int | None = None, smallest: int = SMALLEST, gap: int = 4) -> Tensor:
    """Returns one picture [C, H, W] of images [N, C, h, w], row by row with gaps between them; as square as possible by default."""
    columns = min(num_columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    images = enlarge(images, smallest)
    channels, height, width = images.shape[1:]
    canvas = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), BACKGROUND, dtype=torch.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def grid_with_captions(images: Tensor, captions: Sequence[str], gap: int = 4) -> Tensor:
    """Returns the grid of images [N, C, h, w] with a caption under each, in at most two lines, and cut if it is longer."""
    images = enlarge(images, CAPTIONED)
    channels, height, width = images.shape[1:]
    room = LINES * LINE_HEIGHT
    cells = torch.full((len(images), channels, height + room, width), BACKGROUND, dtype=torch.uint8)
    for cell, image, caption in zip(cells, images, captions, strict=True):
        cell[:, :height] = image
        cell[:, height:] = draw_text("\n".join(wrap_text(caption, width, LINES)), channels, room, width)
    return grid(cells, gap=gap)


def grid_with_row_names(images: Tensor, names: Sequence[str], num_columns: int, gap: int = 4) -> Tensor:
    """Returns the grid of images [N, C, h, w] with the name of each row to the left of it, in at most two lines."""
    picture = grid(images, num_columns, gap=gap)
    channels, height = picture.shape[0], (picture.shape[1] - gap) // len(names) - gap
    wrapped = ["\n".join(wrap_text(name, CAPTIONED, LINES)) for name in names]
    width = max(len(draw_text(text, 1, 1)[0, 0]) for text in wrapped)
    margin = torch.full((channels, picture.shape[1], gap + width), BACKGROUND, dtype=torch.uint8)
    for row, text in enumerate(wrapped):
        words = draw_text(text, channels, LINE_HEIGHT * (1 + text.count("\n")))[:, :height]
        top = gap + row * (height + gap) + (height - words.shape[1]) // 2
        margin[:, top : top + words.shape[1], gap : gap + words.shape[2]] = words
    return torch.cat([margin, picture], dim=2)


def side_by_side(*columns: Tensor, gap: int = 2) -> Tensor:
    """Returns wide images [N, C, H, W'] made of images [N, C, h, h] side by side, all scaled to the height of the largest.

    A single column is returned as it is.
    """
    if len(columns) == 1:
        return columns[0]
    height = enlarge(max(columns, key=lambda images: images.shape[-1]), SMALLEST).shape[-1]
    space = columns[0].new_full((*columns[0].shape[:2], height, gap), BACKGROUND)
    parts = [part for images in columns for part in (resize_nearest(images.cpu(), height), space)]
    return torch.cat([*parts, space], dim=3)  # some more on the right, where the next one begins


def resize_nearest(images: Tensor, side: int) -> Tensor:
    """Returns images scaled to `side` x `side` by nearest neighbours, so that there are no new values."""
    return interpolate(images.float(), (side, side), mode="nearest-exact").to(images.dtype)


def wrap_text(text: str, width: int, max_lines: int) -> list[str]:
    """Returns the text as at most `max_lines` lines of `width` pixels, cut with dots if it is longer."""
    font, lines, rest = ImageFont.load_default(), [], to_printable_ascii(" ".join(text.split()))
    while rest and len(lines) < max_lines:
        end = len(rest)
        while end > 1 and font.getlength(rest[:end]) > width:
            end -= 1
        if end < len(rest) and len(lines) < max_lines - 1:
            end = rest.rfind(" ", 1, end + 1) if " " in rest[1 : end + 1] else end
        elif end < len(rest):
            rest, end = rest[: max(end - 2, 1)] + "..", end + 2
        lines.append(rest[:end].strip())
        rest = rest[end:].strip() if len(lines) < max_lines else ""
    return lines or [""]


def to_printable_ascii(text: str) -> str:
    """Returns what Pillow's default font can show of the text: letters lose their accents, the rest becomes question marks."""
    bare = "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    return bare.translate(QUOTES).encode("ascii", "replace").decode()


def draw_text(text: str, channels: int, height: int, width: int | None = None) -> Tensor:
    """Returns the text black on white, uint8 [C, height, width]; width None: as wide as the text."""
    font = ImageFont.load_default()
    needed = max(math.ceil(font.getlength(line)) for line in text.split("\n")) + 1
    canvas = Image.new("L", (width or needed, height), BACKGROUND)
    ImageDraw.Draw(canvas).multiline_text((0, 0), text, fill=0, font=font, spacing=1)
    return pixels_of(canvas).expand(channels, -1, -1)


def to_pil(image: Tensor) -> Image.Image:
    """Returns the Pillow image of uint8 [C, H, W] with one or three channels."""
    array = image.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_png(image: Tensor, path: Path, text: PictureText = NO_TEXT) -> None:
    """Writes uint8 [C, H, W] as PNG, and makes its folder, though not the one above, if there is none. Raises WriteError.

    text: what the file says of itself.
    """
    buffer = io.BytesIO()
    write_png(to_pil(image), buffer, text)
    _write_picture(buffer, path)


def save_gif(frames: Sequence[Tensor], path: Path, milliseconds: int = 120, pause: int = 1500, text: PictureText = NO_TEXT) -> None:
    """Writes frames, each uint8 [C, H, W], as a GIF that rests on the last one; otherwise as `save_png`."""
    images, buffer = [to_pil(frame) for frame in frames], io.BytesIO()
    durations = [milliseconds] * (len(images) - 1) + [pause]
    settings = {"duration": durations, "loop": 0, "comment": gif_comment(text)}
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], **settings)
    _write_picture(buffer, path)


def _write_picture(buffer: io.BytesIO, path: Path) -> None:
    make_folder(path.parent)
    with atomic_writer(path, durable=False) as file:
        file.write(buffer.getbuffer())
