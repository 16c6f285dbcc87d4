"""Aspect-ratio buckets: each image belongs to the bucket whose aspect ratio is nearest to its own."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from alphabar.bits import Bits
from alphabar.data import ImageSet, LoadedImages, ReadImages, Shape
from alphabar.data.image_sets.decoded import CHUNK, NUM_THREADS, DecodedImages
from alphabar.errors import UserError
from alphabar.progress import show_progress
from alphabar.resolution import format_resolution


class BucketedImages(ImageSet):
    """An image set whose training batches have the shape of a bucket; everything else sees the shape of the set.

    sizes: (height, width) of each image, int64 [N, 2]. shapes: the shape of each bucket. buckets: the bucket of each
        image, int64 [N].
    """

    def __init__(self, images: DecodedImages, sizes: Tensor, shapes: Sequence[Shape]) -> None:
        super().__init__(images.shape, images.labels, images.captions, images.vectors)
        self.decoded, self.shapes = images, list(shapes)
        self.buckets = nearest_buckets(sizes, self.shapes)

    def must_have_all_shapes(self) -> None:
        """Raises UserError for a bucket without images."""
        for bucket, shape in enumerate(self.shapes):
            if not (self.buckets == bucket).any():
                size = format_resolution(shape.resolution)
                raise UserError(f"data.buckets: no training image has the proportions of {size}: leave it out")

    def __len__(self) -> int:
        return len(self.decoded)

    @property
    def bits(self) -> Bits:
        return self.decoded.bits

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return self.decoded.batch(indices)

    @property
    def can_crop(self) -> bool:
        return True

    def training_batch(self, indices: Tensor, crops: Tensor | None) -> dict[str, Tensor]:
        return self.decoded.shaped_batch(indices, crops, self.shapes[int(self.buckets[indices[0]])])

    def split_by_shape(self, indices: Tensor) -> list[Tensor]:
        found = self.buckets[indices]
        return [indices[found == bucket] for bucket in found.unique().tolist()]

    def describe(self) -> str:
        """Returns the number of images in each bucket and the size of figures: "48x64: 913, 64x48: 211; FID is of 48x64"."""
        counts = self.buckets.bincount(minlength=len(self.shapes)).tolist()
        parts = [f"{shape.height}x{shape.width}: {num:,}" for shape, num in zip(self.shapes, counts, strict=True)]
        return f"{', '.join(parts)}; FID is of {self.shape.height}x{self.shape.width}"

    def read(self, start: int, stop: int) -> ReadImages:
        return self.decoded.read(start, stop)

    def load(self) -> LoadedImages:
        return self.decoded.load()


def image_sizes(images: DecodedImages) -> Tensor:
    """Returns (height, width) of each image file, int64 [N, 2]; that of the set for a file that cannot be read."""

    def sizes(start: int) -> list[tuple[int, int]]:
        return [images.size(index) for index in range(start, min(start + CHUNK, len(images)))]

    found: list[tuple[int, int]] = []
    with (
        ThreadPoolExecutor(NUM_THREADS) as pool,
        show_progress("measuring images", len(images), "img", rank_zero_only.rank == 0) as bar,
    ):
        for part in pool.map(sizes, range(0, len(images), CHUNK)):
            found += part
            bar.update(len(part))
    return torch.tensor(found, dtype=torch.int64)


def nearest_buckets(sizes: Tensor, shapes: Sequence[Shape]) -> Tensor:
    """Returns the bucket of each size [N, 2], int64 [N]: the one with the smallest |log(aspect ratio / its aspect ratio)|."""
    proportions = torch.tensor([math.log(shape.height / shape.width) for shape in shapes], dtype=torch.float64)
    own = (sizes[:, 0].double() / sizes[:, 1]).log()
    return (own[:, None] - proportions).abs().argmin(1)
