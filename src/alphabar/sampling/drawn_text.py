"""Text in pictures, at the size of a screen whatever the size of the images."""

import math
import unicodedata

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from alphabar.data.decoding.pixels import pixels_of

BACKGROUND = 255  # what is between images, and behind text, is white
FONT_SIZE = 14  # pixels
LINE_HEIGHT = 18  # pixels
QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
HEAD = 5  # pixels of the head of an arrow, and of the radius of the dot on it


def wrap_text(text: str, width: int, max_lines: int) -> list[str]:
    """Returns the text as at most `max_lines` lines of `width` pixels, cut with dots if it is longer."""
    font, lines, rest = ImageFont.load_default(FONT_SIZE), [], to_printable_ascii(" ".join(text.split()))
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
    font = ImageFont.load_default(FONT_SIZE)
    needed = max(math.ceil(font.getlength(line)) for line in text.split("\n")) + 1
    canvas = Image.new("L", (width or needed, height), BACKGROUND)
    ImageDraw.Draw(canvas).multiline_text((0, 0), text, fill=0, font=font, spacing=LINE_HEIGHT - FONT_SIZE)
    return pixels_of(canvas).expand(channels, -1, -1)


def write_on(picture: Tensor, text: str, top: int, left: int, width: int = 0) -> None:
    """Writes a line of text into a picture [C, H, W], in the middle of `width` pixels if it is narrower; it is cut at the edges."""
    words = draw_text(text, picture.shape[0], LINE_HEIGHT)
    left += max(0, (width - words.shape[2]) // 2)
    room = picture[:, top : top + LINE_HEIGHT, left : left + words.shape[2]]
    room[:] = words[:, : room.shape[1], : room.shape[2]]


def draw_arrow(begin: str, end: str, channels: int, width: int, place: float | None = None) -> Tensor:
    """Returns "begin ----> end" in one line, uint8 [C, LINE_HEIGHT, width]; place in [0, 1]: a dot stands there on the arrow."""
    font, middle = ImageFont.load_default(FONT_SIZE), LINE_HEIGHT // 2
    left, right = math.ceil(font.getlength(begin)) + 10, width - math.ceil(font.getlength(end)) - 10
    canvas = Image.new("L", (width, LINE_HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 0), begin, fill=0, font=font)
    draw.text((right + 8, 0), end, fill=0, font=font)
    if right - left > 2 * HEAD:
        draw.line((left, middle, right - HEAD, middle), fill=130, width=2)
        draw.polygon([(right - 2 * HEAD, middle - HEAD), (right, middle), (right - 2 * HEAD, middle + HEAD)], fill=130)
        if place is not None:
            at = left + HEAD + place * (right - left - 2 * HEAD)
            draw.ellipse((at - HEAD, middle - HEAD, at + HEAD, middle + HEAD), fill=0)
    return pixels_of(canvas).expand(channels, -1, -1)
