"""Diffusion on the pixels themselves."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphabar.bits import DTYPE_OF_BITS, WIDE_MAX, Bits, plain_integers
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.models.codecs import Codec


def to_uint8(x: Tensor) -> Tensor:
    """Returns uint8 in 0..255 from floats in [-1, 1], rounded; values outside are clipped and NaN becomes 0.

    All images leave the program through this function, so that files, loggers and metrics see the same pixels.
    """
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().nan_to_num(0).to(torch.uint8)


def to_uint16(x: Tensor) -> Tensor:
    """Returns uint16 in 0..65535 from floats in [-1, 1], otherwise as `to_uint8`; on the CPU, where torch knows this dtype best."""
    return ((x.float().clamp(-1, 1) + 1) * (WIDE_MAX / 2)).round().nan_to_num(0).cpu().to(torch.uint16)


def to_model_range(images: Tensor) -> Tensor:
    """Returns float32 images in [-1, 1] from uint8 ones, image / 127.5 - 1, from uint16 ones, image / 32767.5 - 1, or from floats,
    which are in [-1, 1] already.

    Raises ValueError for another dtype. The values are not checked here, which would make every training step wait for the device,
    but once by `check_images`.
    """
    if images.dtype == torch.uint16:
        levels = plain_integers(images).int() & WIDE_MAX
        return levels.float().div_(WIDE_MAX / 2).sub_(1)
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise ValueError(f"need images as uint8 in 0..255 or as floats in [-1, 1], got {images.dtype}")
        return images.float()
    return images.float().div_(127.5).sub_(1)  # in place: nothing else has what `float` returns


def check_images(images: Tensor) -> None:
    """Raises ValueError unless a batch of images is uint8 or uint16, or floats of which some are negative and all lie in [-1, 1].

    A batch of floats without a negative value is one in [0, 1], or 0..255, which would be trained on as images brighter than grey.
    """
    if images.dtype in DTYPE_OF_BITS.values():
        return
    low, high = to_model_range(images).aminmax()
    if not (-1 <= low < 0 and high <= 1):
        raise ValueError(f"need images as uint8 in 0..255 or as floats in [-1, 1], got floats in [{low:.4g}, {high:.4g}]")


class Pixels(Codec):
    """The codec x = image / 127.5 - 1, in [-1, 1], or image / 32767.5 - 1; exact both ways. Floats in [-1, 1] stay as they are.

    bits: the bits per channel of decoded images, 8 for uint8 or 16 for uint16; None: 8.
    """

    def __init__(self, bits: Bits | None = None) -> None:
        super().__init__()
        self._bits: Bits = bits or 8

    @property
    def bits(self) -> Bits:
        return self._bits

    @property
    def is_bounded(self) -> bool:
        return True

    @property
    def makes_images(self) -> bool:
        return True

    @property
    def has_pixel_likelihood(self) -> bool:
        return self.bits == 8  # the noise of a grey level of 16 bits is less than any that a model is trained with

    def space(self, channels: int, height: int, width: int) -> Sequence[int]:
        return channels, height, width

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Tensor:
        return self.encode(batch["image"])

    def encode(self, images: Tensor) -> Tensor:
        return to_model_range(images)

    def decode(self, x: Tensor) -> Tensor:
        return to_uint8(x) if self.bits == 8 else to_uint16(x)
