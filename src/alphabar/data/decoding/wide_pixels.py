"""Conversion of images that Pillow opens to pixels of 16 bits."""

import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from torch import Tensor

from alphabar.bits import WIDE_MAX, Bits, with_bits
from alphabar.data import Shape
from alphabar.data.decoding.pixel_values import WIDE_MODES
from alphabar.data.decoding.pixels import CENTER, Crop, alone_if_large, crop_box, orientation, to_pixels


def to_pixels_of_bits(image: Image.Image, shape: Shape, crop: Crop = CENTER, bits: Bits = 8) -> Tensor:
    """Returns the result of `to_pixels` if bits is 8, else the same part of the image as uint16 [C, H, W].

    White is 65,535 for integers of 16 or 32 bits, 1 for floating-point numbers and 255 for images of 8 bits.
    Raises ValueError for integers outside 0..65535 and real numbers outside 0..1, for grey of more than 8 bits unless `shape` has
    one channel, and for colours of 16 bits, which Pillow would round to 8.
    """
    if bits == 8:
        return to_pixels(image, shape, crop=crop)
    must_not_be_rounded(image)
    if image.mode not in WIDE_MODES:
        return with_bits(to_pixels(image, shape, crop=crop), 16)
    if shape.channels != 1:
        raise ValueError(f"grey of 16 bits, need data.channels=1 for it, got {shape.channels}")
    with alone_if_large(image):
        turn = orientation(image)
        grey = _wide_grey(image)
        grey = grey if turn is None else grey.transpose(turn)
        size = (shape.width, shape.height)
        if grey.size != size:
            grey = grey.resize(size, Image.Resampling.LANCZOS, box=crop_box(grey, shape, crop), reducing_gap=3.0)
    return torch.from_numpy(np.rint(np.asarray(grey)).clip(0, WIDE_MAX).astype(np.uint16))[None]


def must_not_be_rounded(image: Image.Image) -> None:
    """Raises ValueError for an undecoded image whose colours or transparency have 16 bits, of which Pillow would keep 8."""
    if image.mode in WIDE_MODES or not isinstance(image, ImageFile):
        return
    arguments = [part for tile in image.tile for part in (tile.args if isinstance(tile.args, tuple) else (tile.args,))]
    if any(isinstance(part, str) and ";16" in part for part in arguments) or (image.format == "PPM" and WIDE_MAX in arguments):
        raise ValueError("Pillow reads colours of 16 bits as 8: need grey, or data=arrays, for data.bits=16")


def _wide_grey(image: Image.Image) -> Image.Image:
    """Returns an image of one of `WIDE_MODES` as real numbers in 0..65535; transparent pixels become white."""
    values, most = np.asarray(image), 1 if image.mode == "F" else WIDE_MAX
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= most:  # neither is NaN
        raise ValueError(f"pixels from {low:g} to {high:g}: need 0 to {most}")
    grey = values.astype(np.float32) * np.float32(WIDE_MAX / most)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        grey[values == hidden] = WIDE_MAX
    return Image.fromarray(grey)
