"""Diffusion on the pixels themselves."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphabar.models.codecs import Codec


def to_uint8(x: Tensor) -> Tensor:
    """Returns uint8 in 0..255 from floats in [-1, 1], rounded; values outside are clipped and NaN becomes 0.

    All images leave the program through this function, so that files, loggers and metrics see the same pixels.
    """
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().nan_to_num(0).to(torch.uint8)


class Pixels(Codec):
    """x = image / 127.5 - 1, in [-1, 1]; exact both ways."""

    @property
    def is_bounded(self) -> bool:
        return True

    @property
    def makes_images(self) -> bool:
        return True

    @property
    def has_pixel_likelihood(self) -> bool:
        return True

    def space(self, channels: int, resolution: int) -> Sequence[int]:
        return channels, resolution, resolution

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.encode(batch["image"])

    def encode(self, images: Tensor) -> Tensor:
        return images.float() / 127.5 - 1

    def decode(self, x: Tensor) -> Tensor:
        return to_uint8(x)
