"""Reproducible randomness: seeds from keys, and numbers that belong to an image or to a row of a batch, wherever it is computed."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """Returns a 63-bit seed that is a function of `parts` alone: equal keys give equal streams, on any machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_global_streams(seed: int, device: torch.device) -> None:
    """Seeds torch's global streams of the CPU and of the device.

    `torch.manual_seed` does so for devices of all kinds, and takes milliseconds to note that there are none of some.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


# The rows that one generator draws. A process draws all rows of each block that it has a row of: at most so many too many.
BLOCK = 512


@dataclass(frozen=True)
class RankShare:
    """The rows of a batch that this process has, where several train on one batch together, and their random numbers.

    Each process has equally many rows, in the order of the ranks. What a row draws is a function of `seed`, of its place in the
    batch of all processes, and of the draws made before; so 64 rows on one device see what 32 on each of two do.

    seed: the same on all processes, another in every step; None draws from torch's global stream.
    """

    rank: int = 0
    world_size: int = 1
    seed: int | None = None
    _generators: dict[tuple[int, torch.device], torch.Generator] = field(default_factory=dict, repr=False, compare=False)

    def draw(self, make: Callable[[int, torch.Generator | None], Tensor], num: int, device: torch.device) -> Tensor:
        """Returns the draws of `num` rows, those of this process; make(n, generator) draws those of n rows on `device`."""
        if self.seed is None:
            return make(num, None)
        begin, total = self.rank * num, self.world_size * num
        parts = []
        for block in range(begin // BLOCK, (begin + num - 1) // BLOCK + 1):
            first = block * BLOCK
            rows = make(min(BLOCK, total - first), self._generator(block, device))
            parts.append(rows[max(begin - first, 0) : begin + num - first])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rand(self, num: int, device: torch.device) -> Tensor:
        """Returns uniform numbers in [0, 1), one for each of `num` rows."""
        return self.draw(lambda rows, generator: torch.rand(rows, device=device, generator=generator), num, device)

    def randn(self, shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns standard normal numbers of this shape, of which the first dimension are the rows."""
        num, *others = shape
        return self.draw(
            lambda rows, generator: torch.randn((rows, *others), device=device, dtype=dtype, generator=generator), num, device
        )

    def randn_like(self, x: Tensor) -> Tensor:
        """Returns standard normal numbers with the shape, device and dtype of x [B, ...]."""
        return self.randn(x.shape, x.device, x.dtype)

    def common(self) -> float:
        """Returns a uniform number in [0, 1) that all processes share."""
        generator = None if self.seed is None else torch.Generator().manual_seed(derive_seed("common", self.seed))
        return torch.rand((), generator=generator, dtype=torch.float64).item()

    def _generator(self, block: int, device: torch.device) -> torch.Generator:
        """Returns the stream of a block of rows on `device`, which goes on where it was."""
        assert self.seed is not None
        if (block, device) not in self._generators:
            seed = self.seed if block == 0 else derive_seed("block", self.seed, block)
            self._generators[block, device] = torch.Generator(device).manual_seed(seed)
        return self._generators[block, device]


SINGLE_PROCESS = RankShare()


class ImageNoise:
    """Standard normal noise in which row i is a function of (seed, indices[i]) and of the draws made before.

    It makes a sampled image independent of batch size, of the number of processes and of how many images are drawn.
    The streams live on the CPU, so that every device sees the same noise.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(derive_seed("image", seed, index)) for index in indices]

    def draw(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Returns standard normal noise [len(indices), *shape], the next draw of every image's stream."""
        noise = torch.empty(len(self.generators), *shape)
        for row, generator in zip(noise, self.generators, strict=True):
            row.normal_(generator=generator)
        return noise.to(device)

    def __call__(self, like: Tensor) -> Tensor:
        """Returns the next draw, with the shape, device and dtype of `like` [B, ...]."""
        return self.draw(like.shape[1:], like.device).to(like.dtype)
