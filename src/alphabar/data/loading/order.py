"""The order of images in training, a function of (seed, epoch) alone."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.diffusion.noise import derive_seed
from alphabar.errors import UserError


class Places(NamedTuple):
    """The places of the B images of a batch: their indices int64 [B], whether each is mirrored left to right, bool [B] or None,
    and where each is cropped, float32 [B, 2] in [0, 1] from (top, left) to (bottom, right), or None for its centre.
    """

    indices: Tensor
    flips: Tensor | None = None
    crops: Tensor | None = None


class BatchOrder(ABC):
    """An endless order of batches, a function of the seed and the position, of which each of `world_size` ranks has its share."""

    @property
    @abstractmethod
    def global_batch_size(self) -> int:
        """The number of images in the batches of all ranks together."""

    @property
    @abstractmethod
    def num_batches(self) -> int:
        """The number of batches of one epoch."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, object]:
        """The arguments that the order depends on, for checkpoints: all but the rank, with "batch_size" and "world_size"."""

    @abstractmethod
    def batches(self, start: int, flip: bool, device: torch.device | str = "cpu", crop: bool = False) -> Iterator[Places]:
        """Yields the places of batches on `device`, without end, from batch `start` of all epochs on.

        flip, crop: whether images are mirrored, and cropped elsewhere than in the centre.
        """


@dataclass(frozen=True)
class EpochOrder(BatchOrder):
    """A fresh permutation of all images for every epoch, cut into batches.

    The first `world_size * batch_size` images are the first batch of all ranks together, and so on; a rest that fills no
    batch is left out of this epoch (the next one leaves out others). No image comes twice, and all ranks get equally many
    batches. Which images make up a global batch depends on its size alone, not on how many ranks share it.

    batch_size: per rank. num_repeated: how many batches of the first epoch make up every epoch, in the same order and with the same
    flips, to overfit on; 0: all images, in a new order each time. block_size: images are permuted within blocks of so many, and the
    blocks come one after the other; 0: one block of all.
    """

    num_images: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    num_repeated: int = 0
    block_size: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"need batch_size >= 1, got {self.batch_size}")
        if self.num_images < self.global_batch_size:
            raise UserError(
                f"need at least batch_size * devices = {self.batch_size} * {self.world_size} = {self.global_batch_size}"
                f" training images, got {self.num_images} (data.batch_size=... makes the batch smaller)"
            )

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    @property
    def num_batches(self) -> int:
        return min(self.num_repeated, self._num_full) or self._num_full

    @property
    def settings(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if name != "rank"}

    @property
    def _num_full(self) -> int:
        return self.num_images // self.global_batch_size

    def indices(self, epoch: int) -> Tensor:
        """Returns the indices of this rank's images in `epoch`, int64 [num_batches, batch_size]."""
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, self._shuffled_epoch(epoch)))
        size = self.block_size or self.num_images
        starts = range(0, self.num_images, size)
        blocks = [start + torch.randperm(min(size, self.num_images - start), generator=generator) for start in starts]
        return self._rank_share(torch.cat(blocks))

    def flips(self, epoch: int) -> Tensor:
        """Returns fair coins for the same positions, bool [num_batches, batch_size]: a function of (seed, epoch, position)."""
        generator = torch.Generator().manual_seed(derive_seed("flip", self.seed, self._shuffled_epoch(epoch)))
        return self._rank_share(torch.rand(self.num_images, generator=generator) < 0.5)

    def crops(self, epoch: int) -> Tensor:
        """Returns uniform places for the same positions, float32 [num_batches, batch_size, 2], as a function of the same."""
        generator = torch.Generator().manual_seed(derive_seed("crop", self.seed, self._shuffled_epoch(epoch)))
        return self._rank_share(torch.rand(self.num_images, 2, generator=generator))

    def batches(self, start: int, flip: bool, device: torch.device | str = "cpu", crop: bool = False) -> Iterator[Places]:
        for epoch in count(start // self.num_batches):
            indices = self.indices(epoch).to(device)
            flips = self.flips(epoch).to(device) if flip else None
            crops = self.crops(epoch) if crop else None
            first = start % self.num_batches if epoch == start // self.num_batches else 0
            for row in range(first, self.num_batches):
                yield Places(indices[row], None if flips is None else flips[row], None if crops is None else crops[row])

    def _shuffled_epoch(self, epoch: int) -> int:
        """Returns the epoch whose permutation and flips are used: the first one, where batches are repeated."""
        return 0 if self.num_repeated else epoch

    def _rank_share(self, values: Tensor) -> Tensor:
        used = values[: self.num_batches * self.global_batch_size]
        return used.view(self.num_batches, self.world_size, self.batch_size, *values.shape[1:])[:, self.rank]
