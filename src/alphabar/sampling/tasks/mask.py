"""Masks of inpainting, which mark the known pixels of an image, by name or from a picture."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from alphabar.data import Shape
from alphabar.data.decoding.pixels import to_pixels
from alphabar.data.decoding.unreadable import unreadable_message
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.files.reading import open_image

# What is hidden: from top to bottom and from left to right, as fractions of the image.
HIDDEN = {
    "center": (0.25, 0.75, 0.25, 0.75),
    "left": (0, 1, 0, 0.5),
    "right": (0, 1, 0.5, 1),
    "top": (0, 0.5, 0, 1),
    "bottom": (0.5, 1, 0, 1),
}


def known_pixels(mask: str, height: int, width: int) -> Tensor:
    """Returns bool [1, H, W], true where a pixel is known.

    mask: one of HIDDEN, or the path of an image of any size, black where pixels are to be filled in.
    Raises UserError if it is neither, cannot be read, or marks no pixel or all of them.
    """
    known = _known_around(HIDDEN[mask], height, width) if mask in HIDDEN else _read_mask(mask, height, width)
    if known.all():
        raise UserError(f"task.mask={mask}: nothing is to be filled in, at {height} x {width} no pixel is black")
    if not known.any():
        raise UserError(f"task.mask={mask}: nothing is known, at {height} x {width} all pixels are black")
    return known


def known_latents(known: Tensor, space: Sequence[int], mask: str) -> Tensor:
    """Returns bool [1, h, w], true where all pixels of a latent are known; `known` itself if latents are pixels.

    space: of the model, (c, h, w). Raises UserError if no latent is known, or if the space has no places.
    """
    if len(space) != 3:
        raise UserError("task=inpaint: this model draws vectors, in which nothing can be filled in")
    height, width = space[1:]
    blocks = known.view(1, height, known.shape[1] // height, width, known.shape[2] // width)
    found = blocks.all(4).all(2)
    if not found.any():
        raise UserError(f"task.mask={mask}: nothing is known, no latent of {height} x {width} has only known pixels")
    return found


def _known_around(hidden: tuple[float, float, float, float], height: int, width: int) -> Tensor:
    top, bottom = (round(fraction * height) for fraction in hidden[:2])
    left, right = (round(fraction * width) for fraction in hidden[2:])
    known = torch.ones(1, height, width, dtype=torch.bool)
    known[:, top:bottom, left:right] = False
    return known


def _read_mask(path: str, height: int, width: int) -> Tensor:
    file = user_path(path)
    if not file.is_file():
        raise UserError(f"task.mask={path}: there is no such file; the words are: {', '.join(HIDDEN)}")
    try:
        with open_image(file) as image:
            return to_pixels(image, Shape(1, height, width), Image.Resampling.NEAREST) >= 128
    except Exception as error:  # any kind: a file may contain any bytes
        raise UserError(f"task.mask={path}: {unreadable_message(str(file), error)}") from error
