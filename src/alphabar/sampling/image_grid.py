"""Grids of images, and files of pictures."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from alphabar.bits import rounded_to_uint8
from alphabar.files.atomic import atomic_writer, make_folder
from alphabar.files.picture_text import PictureText, gif_comment, write_png
from alphabar.sampling.drawn_text import BACKGROUND, LINE_HEIGHT, draw_text, wrap_text, write_on

GAP = 4  # pixels between images
CAPTION_GAP = 10  # pixels between images with captions
SMALLEST = 48  # pixels that images in a grid are at least high
CAPTIONED = 128  # pixels that images with captions, and names of rows, are at least wide, so that there is room for text
LINES = 2  # lines of a caption, at most
NO_TEXT: PictureText = {}
BLOCK_GAP = 20  # pixels between blocks of images
NUM_SQUARES, LIGHT_GREY = 8, 215.0  # of a checkerboard
MOVING, RESTING, SHORTEST = 3000, 2000, 60  # milliseconds of a film, of its last frame, and of each other frame at least


def visible(images: Tensor) -> Tensor:
    """Returns images [..., C, H, W] in a form that a screen can show: uint8 [..., 1, H, C * W] or [..., 3, H, W].

    Grey and RGB are converted to 8 bits, RGBA is blended with a checkerboard; other channels are put side by side in grey.
    """
    images, channels = rounded_to_uint8(images), images.shape[-3]
    if channels in (1, 3):
        return images
    if channels != 4:
        return torch.cat(images.split(1, dim=-3), dim=-1)
    colours, alpha = images.float().split([3, 1], dim=-3)
    board = checkerboard(*images.shape[-2:]).to(images.device)
    return (board + (colours - board) * alpha / 255).round().to(torch.uint8)


def checkerboard(height: int, width: int) -> Tensor:
    """Returns squares of white and light grey, float32 [H, W], eight along the shorter side: they stand for what is transparent."""
    size = max(1, min(height, width) // NUM_SQUARES)
    is_grey = (torch.arange(height)[:, None] // size + torch.arange(width) // size) % 2
    return torch.where(is_grey == 1, LIGHT_GREY, float(BACKGROUND))


def enlarge(images: Tensor, smallest: int) -> Tensor:
    """Returns images [..., H, W] enlarged by repeating pixels, so that their height is at least `smallest`."""
    factor = max(1, math.ceil(smallest / images.shape[-2]))
    return images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def grid(images: Tensor, num_columns: int | None = None, smallest: int = SMALLEST, gap: int = GAP) -> Tensor:
    """Returns one picture [C, H, W] of images [N, C, h, w], row by row with gaps between them; as square as possible by default."""
    images = visible(images)
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


def grid_with_captions(images: Tensor, captions: Sequence[str], gap: int = CAPTION_GAP) -> Tensor:
    """Returns the grid of images [N, C, h, w] with a caption under each, in at most two lines, and cut if it is longer."""
    images = visible(images)
    images = enlarge(images, math.ceil(CAPTIONED * images.shape[-2] / images.shape[-1]))
    channels, height, width = images.shape[1:]
    texts = ["\n".join(wrap_text(caption, width, LINES)) for caption in captions]
    room = LINE_HEIGHT * (1 + max(text.count("\n") for text in texts))
    cells = torch.full((len(images), channels, height + room, width), BACKGROUND, dtype=torch.uint8)
    for cell, image, text in zip(cells, images, texts, strict=True):
        cell[:, :height] = image
        cell[:, height:] = draw_text(text, channels, room, width)
    num_columns = max(1, round(math.sqrt(len(cells) * cells.shape[-2] / width)))  # as square as possible
    return grid(cells, num_columns, gap=gap)


def grid_with_row_names(images: Tensor, names: Sequence[str], num_columns: int, gap: int = GAP) -> Tensor:
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


def titled_blocks(blocks: Mapping[str, Tensor]) -> Tensor:
    """Returns pictures [C, H_i, W_i] beside one another in one picture [C, H, W], each with its title below it."""
    height = max(block.shape[1] for block in blocks.values())
    parts: list[Tensor] = []
    for title, block in blocks.items():
        channels, block_height, block_width = block.shape
        width = max(block_width, GAP + draw_text(title, 1, 1).shape[2])
        part = block.new_full((channels, height + LINE_HEIGHT, width + BLOCK_GAP * bool(parts)), BACKGROUND)
        left = part.shape[2] - width
        part[:, :block_height, left : left + block_width] = block
        write_on(part, title, block_height, left + GAP)
        parts.append(part)
    return torch.cat(parts, dim=2)


def column_of_pictures(pictures: Sequence[Tensor]) -> Tensor:
    """Returns one picture [C, H, W] of pictures [C, H_i, W_i] above one another."""
    width = max(picture.shape[2] for picture in pictures)
    gaps = [0, *[BLOCK_GAP] * (len(pictures) - 1)]
    parts = [pad(each, (0, width - each.shape[2], gap, 0), value=BACKGROUND) for gap, each in zip(gaps, pictures, strict=True)]
    return torch.cat(parts, dim=1)


def side_by_side(*columns: Tensor, gap: int = 2) -> Tensor:
    """Returns wide images [N, C, H, W'] made of images [N, C, h, w] side by side, all scaled to the height of the largest.

    A single column is returned as it is.
    """
    if len(columns) == 1:
        return columns[0]
    columns = tuple(map(visible, columns))
    height = enlarge(max(columns, key=lambda images: images.shape[-2]), SMALLEST).shape[-2]
    space = columns[0].new_full((*columns[0].shape[:2], height, gap), BACKGROUND)
    parts = [part for images in columns for part in (resize_nearest(images.cpu(), height), space)]
    return torch.cat([*parts, space], dim=3)  # some more on the right, where the next one begins


def resize_nearest(images: Tensor, height: int) -> Tensor:
    """Returns images [N, C, h, w] scaled to a height by nearest neighbours, so that there are no new values."""
    width = round(images.shape[-1] * height / images.shape[-2])
    return interpolate(images.float(), (height, width), mode="nearest-exact").to(images.dtype)


def to_pil(image: Tensor) -> Image.Image:
    """Returns the Pillow image of uint8 [C, H, W], RGBA of four channels, or of uint16 [1, H, W], which is grey of 16 bits.

    Other channels are put side by side in grey.
    """
    image = image if image.shape[0] == 4 or image.dtype == torch.uint16 else visible(image)
    array = image.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_png(image: Tensor, path: Path, text: PictureText = NO_TEXT) -> None:
    """Writes an image, see `to_pil`, as PNG, and creates its folder, but not the parents of that. Raises WriteError.

    text: the metadata of the file.
    """
    buffer = io.BytesIO()
    write_png(to_pil(image), buffer, text)
    _write_picture(buffer, path)


def save_gif(frames: Sequence[Tensor], path: Path, text: PictureText = NO_TEXT) -> None:
    """Writes frames, each uint8 [C, H, W], as a GIF that moves for MOVING ms or more and then rests on the last one for RESTING ms.

    Otherwise as `save_png`.
    """
    images, buffer = [to_pil(frame) for frame in frames], io.BytesIO()
    num_moving = len(images) - 1
    durations = [max(SHORTEST, math.ceil(MOVING / max(num_moving, 1) / 10) * 10)] * num_moving + [RESTING]
    settings = {"duration": durations, "loop": 0, "comment": gif_comment(text)}
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], **settings)
    _write_picture(buffer, path)


def _write_picture(buffer: io.BytesIO, path: Path) -> None:
    make_folder(path.parent)
    with atomic_writer(path, durable=False) as file:
        file.write(buffer.getbuffer())
