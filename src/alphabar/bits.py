"""Images of 8 and 16 bits per channel: uint8 and uint16, whose largest values, 255 and 65,535, are both white."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Bits = Literal[8, 16]
DTYPE_OF_BITS: Mapping[Bits, torch.dtype] = {8: torch.uint8, 16: torch.uint16}
WIDE_MAX = 2**16 - 1  # the largest value of 16 bits
WIDE_STEP = 257  # the step of 16-bit values that equals 1 of 8 bits: 65,535 = 257 * 255


def rounded_to_uint8(images: Tensor) -> Tensor:
    """Returns uint8 images unchanged, and uint16 ones divided by 257 and rounded, for screens and feature networks.

    Raises ValueError for another dtype, since floats would be misread silently.
    """
    if images.dtype == torch.uint16:
        return (images.float() / WIDE_STEP).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        raise ValueError(f"need images as torch.uint8 or torch.uint16, got {images.dtype} {list(images.shape)}")
    return images


def with_bits(images: Tensor, bits: Bits) -> Tensor:
    """Returns uint8 or uint16 images converted to 8 or 16 bits. Raises ValueError for another dtype."""
    if bits == 16 and images.dtype != torch.uint16:
        return (rounded_to_uint8(images).int() * WIDE_STEP).to(torch.uint16)
    return images if bits == 16 else rounded_to_uint8(images)


def plain_integers(images: Tensor) -> Tensor:
    """Returns uint8 images unchanged, and uint16 ones as an int16 view of the same bytes, since some devices lack uint16.

    Operations that only move pixels give the same result on the view; `.view(images.dtype)` restores the dtype.
    """
    return images.view(torch.int16) if images.dtype == torch.uint16 else images
