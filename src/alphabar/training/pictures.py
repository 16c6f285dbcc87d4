"""Grids and films: from uint8 images to files."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

BACKGROUND = 255  # the gaps are white


def enlarge(images: Tensor, smallest: int) -> Tensor:
    """Repeats pixels until images [..., H, W] are at least `smallest` high: small images stay sharp."""
    factor = max(1, math.ceil(smallest / images.shape[-2]))
    return images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def grid(images: Tensor, num_columns: int | None = None, smallest: int = 48, gap: int = 4) -> Tensor:
    """One image [C, H, W] of many [N, C, h, w], row by row, with gaps between them; as square as it goes by default."""
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


def to_pil(image: Tensor) -> Image.Image:
    """A Pillow image of uint8 [C, H, W] with one or three channels."""
    array = image.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_png(image: Tensor, path: Path) -> None:
    """Writes uint8 [C, H, W], making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(image).save(path)


def save_gif(frames: Sequence[Tensor], path: Path, milliseconds: int = 120, pause: int = 1500) -> None:
    """Writes frames, each uint8 [C, H, W], as a GIF that rests on the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [to_pil(frame) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [pause]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
