"""The order of images in buckets, a function of (seed, epoch) alone; all images of a batch are of one bucket."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import count

import torch
from torch import Tensor

from alphabar.data.loading.order import BatchOrder, Places
from alphabar.diffusion.noise import derive_seed
from alphabar.errors import UserError


class BucketOrder(BatchOrder):
    """An order that permutes every bucket anew in each epoch and cuts it into batches, which come in random order.

    Every image of a bucket is seen once before any is seen again: those left over at the end of a permutation begin the next batch
    of the bucket. In a step all ranks have images of the same bucket, and the images of a global batch depend on its size alone.

    buckets: the bucket of each image, int64 [N]. batch_size, num_repeated: see `EpochOrder`.
    Raises UserError unless there are images for one batch.
    """

    def __init__(
        self, buckets: Tensor, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, num_repeated: int = 0
    ) -> None:
        self.members = [(buckets == bucket).nonzero().flatten() for bucket in range(int(buckets.max()) + 1)]
        self.sizes = [len(member) for member in self.members if len(member)]
        self.members = [member for member in self.members if len(member)]
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.num_repeated = num_repeated
        self._shuffled = lru_cache(maxsize=2 * len(self.members))(self._permutation)
        self._batches_in = lru_cache(maxsize=1)(self._batches_of_epoch)
        if len(buckets) < self.global_batch_size:
            raise UserError(f"need at least batch_size * devices = {self.global_batch_size} training images, got {len(buckets)}")

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    @property
    def num_batches(self) -> int:
        full = sum(self.sizes) // self.global_batch_size
        return min(self.num_repeated, full) or full

    @property
    def settings(self) -> dict[str, object]:
        names = ("batch_size", "seed", "world_size", "num_repeated")
        return {**{name: getattr(self, name) for name in names}, "bucket_sizes": self.sizes}

    def batches(self, start: int, flip: bool, device: torch.device | str = "cpu", crop: bool = False) -> Iterator[Places]:
        for number in count(start):
            number = number % self.num_batches if self.num_repeated else number
            indices = self._own(self.indices(number)).to(device)
            flips = self._own(self._uniform("flip", number)[:, 0] < 0.5).to(device) if flip else None
            yield Places(indices, flips, self._own(self._uniform("crop", number)) if crop else None)

    def indices(self, number: int) -> Tensor:
        """Returns the indices of all ranks' images in a batch, counted from 0 over all epochs: int64 [world_size * batch_size]."""
        epoch = number * self.global_batch_size // sum(self.sizes)
        while self._num_before(epoch) > number:
            epoch -= 1
        while self._num_before(epoch + 1) <= number:
            epoch += 1
        bucket, place = self._batches_in(epoch)[number - self._num_before(epoch)]
        first, size = place * self.global_batch_size, self.sizes[bucket]
        last = first + self.global_batch_size
        parts = [self._shuffled(bucket, part) for part in range(first // size, (last - 1) // size + 1)]
        begin = first - first // size * size
        return torch.cat(parts)[begin : begin + self.global_batch_size]

    def _num_before(self, epoch: int) -> int:
        """Returns the number of batches in all epochs before this one."""
        return sum(epoch * size // self.global_batch_size for size in self.sizes)

    def _batches_of_epoch(self, epoch: int) -> list[tuple[int, int]]:
        """Returns the batches of an epoch in order: (bucket, number of the batch in the bucket, counted over all epochs)."""
        ends = [[(epoch + more) * size // self.global_batch_size for more in (0, 1)] for size in self.sizes]
        buckets = [bucket for bucket, (first, last) in enumerate(ends) for _ in range(first, last)]
        places = [count(first) for first, _ in ends]
        generator = torch.Generator().manual_seed(derive_seed("buckets", self.seed, epoch))
        order = torch.randperm(len(buckets), generator=generator).tolist()
        return [(buckets[index], next(places[buckets[index]])) for index in order]

    def _permutation(self, bucket: int, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed("bucket", self.seed, bucket, epoch))
        return self.members[bucket][torch.randperm(self.sizes[bucket], generator=generator)]

    def _uniform(self, name: str, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(f"bucket_{name}", self.seed, number))
        return torch.rand(self.global_batch_size, 2, generator=generator)

    def _own(self, values: Tensor) -> Tensor:
        """Returns this rank's rows of a global batch."""
        return values[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
