"""Conversion of images that Pillow opens to uint8 pixels of one shape."""

from contextlib import AbstractContextManager, nullcontext
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphabar.data import Shape
from alphabar.data.decoding.pixel_values import WIDE_MODES, to_eight_bits
from alphabar.resolution import Resolution

LARGE = 2**24  # pixels; images of more are decoded one at a time, for each takes up to 1 GiB
LARGE_IMAGES = Lock()
ORIENTATION = 0x0112  # the tag of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PLAIN = ("1", "L", "RGB", "CMYK", "YCbCr", "HSV")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by their number of channels


Crop = tuple[float, float]
CENTER: Crop = (0.5, 0.5)


def image_shape(channels: int, resolution: Resolution) -> Shape:
    """Returns the shape of images. Raises ValueError as `sides` does, and unless channels is 1 (grey), 3 (RGB) or 4 (RGBA)."""
    if channels not in MODES:
        raise ValueError(f"need channels 1 (grey), 3 (RGB) or 4 (RGBA), got {channels}")
    return Shape.of(channels, resolution)


def to_pixels(
    image: Image.Image, shape: Shape, resample: Image.Resampling = Image.Resampling.LANCZOS, crop: Crop = CENTER
) -> Tensor:
    """Returns the largest part of `image` with the proportions of `shape`, scaled to it: uint8 [C, H, W].

    EXIF orientation is applied. Transparent pixels become white, unless `shape` has 4 channels. Of an animation, the first frame
    is used.

    crop: where the part lies, in [0, 1]: (0, 0) is top left, (1, 1) bottom right.
    resample: Lanczos averages over all source pixels (no aliasing, whatever the factor) and keeps more of the fine detail
        than box or bicubic do, which is what a generative model is trained to draw; NEAREST makes no new values, for masks.
    """
    # JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the time; twice the target is left to the filter.
    image.draft(None, (2 * shape.width, 2 * shape.height))
    with alone_if_large(image):
        image = flattened(image, shape.channels)
        size = (shape.width, shape.height)
        if image.size != size:
            image = _resized(image, size, resample, crop_box(image, shape, crop))
    return pixels_of(image)


def _resized(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, box: tuple[float, float, float, float]
) -> Image.Image:
    """Returns the part of an image in `box`, scaled; colours of transparent pixels do not bleed into visible ones."""
    if image.mode != "RGBA":
        return image.resize(size, resample, box=box, reducing_gap=3.0)
    return image.convert("RGBa").resize(size, resample, box=box, reducing_gap=3.0).convert("RGBA")


def crop_box(image: Image.Image, shape: Shape, crop: Crop) -> tuple[float, float, float, float]:
    """Returns the edges (left, top, right, bottom) of the largest part with the proportions of `shape`."""
    if image.width * shape.height <= image.height * shape.width:  # the whole width
        width, height = float(image.width), image.width * shape.height / shape.width
    else:
        width, height = image.height * shape.width / shape.height, float(image.height)
    top, left = crop[0] * (image.height - height), crop[1] * (image.width - width)
    return left, top, left + width, top + height


def flattened(image: Image.Image, num_channels: int) -> Image.Image:
    """Returns `image` the right way up, with 8 bits in each of 1 (grey), 3 (RGB) or 4 (RGBA) channels.

    Transparent pixels become white, except in RGBA. Raises ValueError for pixels without a known range, see `to_eight_bits`.
    """
    mode = MODES[num_channels]
    flat, turn = image if _is_seen_through(image) and mode == "RGBA" else _flat(image), orientation(image)
    flat = flat if flat.mode == mode else flat.convert(mode)
    return flat if turn is None else flat.transpose(turn)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns (height, width) of the upright image according to the header of the file; nothing is decoded."""
    is_on_its_side = _turn(image) in {TURNS[tag] for tag in (5, 6, 7, 8)}
    return (image.width, image.height) if is_on_its_side else (image.height, image.width)


def orientation(image: Image.Image) -> Image.Transpose | None:
    """Returns the transposition that makes the image upright according to its EXIF, or None; decodes the image."""
    image.load()  # some formats say only then
    return _turn(image)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Returns the transposition that makes the image upright according to the EXIF that has been read, or None."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # any kind: a file may contain any bytes
        return None


def alone_if_large(image: Image.Image) -> AbstractContextManager[object]:
    """Returns a lock, if the image is large, that only one thread holds at a time."""
    return LARGE_IMAGES if image.width * image.height > LARGE else nullcontext()


def pixels_of(image: Image.Image) -> Tensor:
    """Returns the pixels of a grey or RGB image: uint8 [C, H, W]."""
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def _is_seen_through(image: Image.Image) -> bool:
    """Returns whether an image may be transparent, of a mode that Pillow converts to RGBA."""
    return image.mode not in (*WIDE_MODES, "LAB") and (image.mode not in PLAIN or "transparency" in image.info)


def _flat(image: Image.Image) -> Image.Image:
    """Returns `image` without transparency and with 8 bits per channel. Raises ValueError as `to_eight_bits` does."""
    if image.mode in WIDE_MODES:  # converted by Pillow, these would be clipped at 255
        return to_eight_bits(image)
    if image.mode == "LAB":  # Pillow knows no way from it to grey
        return image.convert("RGB")
    if not _is_seen_through(image):
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
