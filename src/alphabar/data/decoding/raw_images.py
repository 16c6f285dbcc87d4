"""Images that the code of others returns: Pillow images, arrays or tensors with any number of channels."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphabar.bits import Bits, with_bits
from alphabar.data import Shape
from alphabar.data.decoding.pixel_values import WIDE_MODES
from alphabar.data.decoding.pixels import CENTER, Crop, pixels_of, to_pixels
from alphabar.data.decoding.wide_pixels import to_pixels_of_bits

RawImage = Image.Image | Tensor  # a tensor is uint8 or uint16 [C, H, W]
GREY_MODES = ("1", "L", "LA", *WIDE_MODES)
PICTURE_CHANNELS = (1, 3, 4)  # that Pillow knows as grey, RGB and RGBA
DTYPES = "uint8 in 0..255 (or uint16, rounded to 8 bits unless data.bits=16)"


def to_raw_image(value: object) -> RawImage:
    """Returns a Pillow image unchanged, and an array [H, W] or [H, W, C] or a tensor [H, W] or [C, H, W] as a tensor [C, H, W].

    Raises ValueError for anything else.
    """
    if isinstance(value, Image.Image):
        return value
    if not isinstance(value, np.ndarray | Tensor):
        raise ValueError(f"need an image as a Pillow image, an array or a tensor, got {type(value).__name__}")
    if value.ndim not in (2, 3) or 0 in value.shape:
        raise ValueError(f"need an image [H, W], an array [H, W, C] or a tensor [C, H, W], got {_described(value)}")
    if isinstance(value, Tensor):
        return to_tensor(value.detach().cpu().numpy() if value.ndim == 3 else value.detach().cpu().numpy()[None])
    if value.ndim == 3 and value.shape[0] in PICTURE_CHANNELS and value.shape[2] not in PICTURE_CHANNELS:
        raise ValueError(f"need an array [H, W, C], got {_described(value)}; a tensor may be [C, H, W]")
    return to_tensor(value[None] if value.ndim == 2 else np.moveaxis(value, 2, 0))


def to_tensor(values: np.ndarray) -> Tensor:
    """Returns the values of an image, uint8 or uint16 of any shape, as a tensor. Raises ValueError for others."""
    if values.dtype not in (np.uint8, np.uint16):
        hint = "; pixels are bytes throughout: leave out what turns them into floats, such as ToTensor or Normalize"
        raise ValueError(f"need {DTYPES}, got {_described(values)}{hint if values.dtype.kind == 'f' else ''}")
    return torch.from_numpy(np.array(values))  # a copy, which may be written to


def shape_of(image: RawImage) -> tuple[int, int, int]:
    """Returns the shape (C, H, W) of an image; for a Pillow image, C is 1 (grey) or 3."""
    if isinstance(image, Tensor):
        return tuple(image.shape)  # type: ignore[return-value]
    return 1 if image.mode in GREY_MODES else 3, image.height, image.width


def fit_pixels(image: RawImage, shape: Shape, crop: Crop = CENTER, bits: Bits = 8) -> Tensor:
    """Returns the largest part of an image with the aspect ratio of `shape`, scaled to it: [C, H, W] of `bits`.

    Grey, RGB and RGBA of 8 bits are converted into one another. crop: see `to_pixels`. Raises ValueError if any other image has
    another number of channels than `shape`.
    """
    if not isinstance(image, Tensor):
        return to_pixels_of_bits(image, shape, crop, bits)
    image = with_bits(image, bits)
    if tuple(image.shape) == shape:
        return image
    if bits == 8 and image.shape[0] in PICTURE_CHANNELS and shape.channels in PICTURE_CHANNELS:
        return to_pixels(_to_picture(image), shape, crop=crop)
    if image.shape[0] != shape.channels:
        raise ValueError(f"need {shape.channels} channels{' of 16 bits' * (bits == 16)}, got {image.shape[0]}")
    alone = shape._replace(channels=1)
    return torch.cat([to_pixels_of_bits(_to_picture(channel[None]), alone, crop, bits) for channel in image])


def must_have_shape(image: RawImage, shape: Shape, bits: Bits = 8) -> Tensor:
    """Returns the pixels of an image as `bits`. Raises ValueError unless it has this shape."""
    found = shape_of(image)
    if found[1:] != shape[1:] or (isinstance(image, Tensor) and found[0] != shape.channels):
        raise ValueError(
            f"need an image of {_sizes(shape)}, as the first one, got {_sizes(found)}; with data.resolution=... images of "
            "any sizes are cropped and scaled"
        )
    return fit_pixels(image, shape, bits=bits)


def content_of(image: RawImage) -> bytes:
    """Returns the content of an image as bytes; equal images give equal bytes."""
    pixels = image if isinstance(image, Tensor) else pixels_of(image)
    return repr((tuple(pixels.shape), isinstance(image, Tensor) or image.mode)).encode() + pixels.numpy().tobytes()


def _to_picture(image: Tensor) -> Image.Image:
    """Returns the Pillow image of uint8 [C, H, W] with 1, 3 or 4 channels, or of uint16 [1, H, W]."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def _described(values: np.ndarray | Tensor) -> str:
    """Returns dtype, shape and range of an array or a tensor in words."""
    dtype = str(values.dtype).removeprefix("torch.")
    spread = f" from {float(values.min()):g} to {float(values.max()):g}" if values.size and dtype.startswith("float") else ""
    return f"{dtype} {list(values.shape)}{spread}"


def _sizes(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{height}x{width} with {channels} channel{'s' * (channels > 1)}"
