"""Reproducible randomness: seeds from keys, and noise that belongs to an image rather than to a batch."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """Returns a 63-bit seed that is a function of `parts` alone: equal keys give equal streams, on any machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class ImageNoise:
    """Standard normal noise in which row i is a function of (seed, indices[i]) and of the draws made before.

    It makes a sampled image independent of batch size, of the number of processes and of how many images are drawn.
    The streams live on the CPU, so that every device sees the same noise.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(derive_seed("image", seed, index)) for index in indices]

    def draw(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Returns standard normal noise [len(indices), *shape], the next draw of every image's stream."""
        rows = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        return torch.stack(rows).to(device)

    def __call__(self, like: Tensor) -> Tensor:
        """Returns the next draw, with the shape, device and dtype of `like` [B, ...]."""
        return self.draw(like.shape[1:], like.device).to(like.dtype)
