"""Conversion of images that Pillow opens to uint8 pixels of one shape."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from alphabar.data import Shape

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
PLAIN = ("1", "L", "RGB", "CMYK", "YCbCr", "LAB", "HSV")


def square_shape(channels: int, resolution: int) -> Shape:
    """Returns the shape of images. Raises ValueError unless resolution >= 1 and channels is 1 (grey) or 3 (RGB)."""
    if resolution < 1:
        raise ValueError(f"need resolution >= 1, got {resolution}")
    if channels not in (1, 3):
        raise ValueError(f"need channels 1 (grey) or 3 (RGB), got {channels}")
    return Shape(channels, resolution)


def to_pixels(image: Image.Image, shape: Shape, resample: Image.Resampling = Image.Resampling.LANCZOS) -> Tensor:
    """Returns the largest centred square of `image`, scaled to `shape`: uint8 [C, H, W].

    The way up is taken from EXIF, what is transparent becomes white, of an animation only the first frame is used.

    resample: Lanczos averages over all source pixels (no aliasing, whatever the factor) and keeps more of the fine detail
        than box or bicubic do, which is what a generative model is trained to draw; NEAREST makes no new values, for masks.
    """
    # JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the time; twice the target is left to the filter.
    image.draft(None, (2 * shape.resolution, 2 * shape.resolution))
    image = flattened(image, shape.channels)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    size = (shape.resolution, shape.resolution)
    if image.size != size:
        box = (left, top, left + side, top + side)
        image = image.resize(size, resample, box=box, reducing_gap=3.0)
    return pixels_of(image)


def flattened(image: Image.Image, num_channels: int) -> Image.Image:
    """Returns `image` the right way up, without transparency, and with 8 bits in each of 1 (grey) or 3 (RGB) channels."""
    return _flat(ImageOps.exif_transpose(image)).convert("L" if num_channels == 1 else "RGB")


def pixels_of(image: Image.Image) -> Tensor:
    """Returns the pixels of a grey or RGB image: uint8 [C, H, W]."""
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def _flat(image: Image.Image) -> Image.Image:
    """Returns `image` without transparency and with 8 bits per channel.

    Raises ValueError for a mode without a fixed range, such as floating point.
    """
    if image.mode in SIXTEEN_BITS:  # converted by Pillow, these would be clipped at 255
        values = np.clip(np.asarray(image, dtype=np.float64), 0, 65535)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode in PLAIN and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
