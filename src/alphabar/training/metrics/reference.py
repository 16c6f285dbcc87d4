"""The real side of a distance: the training images, and how far other real images are from them."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from alphabar.training.data import ImageSet
from alphabar.training.metrics import Splits, cache
from alphabar.training.metrics.frechet import FrechetDistance, Sums
from alphabar.training.ranks import from_first, rank_and_size

log = logging.getLogger(__name__)
VERSION = 1  # of what is cached here


class Floor(NamedTuple):
    """The distance of real images, and how many there were."""

    distance: float
    num_images: int


def batches(images: ImageSet, num: int, batch_size: int) -> Iterator[Tensor]:
    """This process's share of the first `num` images, uint8 [B, C, H, W]; no image comes twice, unlike in training."""
    rank, world_size = rank_and_size()
    for indices in torch.arange(rank, num, world_size).split(batch_size):
        if len(indices):
            yield images.images(indices)


def learn_real(distance: FrechetDistance, splits: Splits, num: int | None, batch_size: int) -> None:
    """Brings the first `num` training images (None: all) into `distance`, from an earlier run's sums if there are any.

    All processes call it.
    """
    num = len(splits.train) if num is None else min(num, len(splits.train))
    extractor = distance.extractor
    path = cache.location(extractor.cache_dir, "real", VERSION, splits.fingerprint, num, extractor.record)
    known = from_first(lambda: cache.read(path))
    if known is not None and known.keys() == set(Sums._fields):
        distance.set_real(Sums(**known))
        return
    rank, world_size = rank_and_size()
    quiet = True if rank else None  # None: where there is no terminal
    with tqdm(desc="looking at real images", total=num, unit="img", delay=2, leave=False, disable=quiet) as bar:
        for images in batches(splits.train, num, batch_size):
            distance.update_real(images)
            bar.update(len(images) * world_size)
    real, _ = distance.sums()
    if rank == 0:
        cache.write(path, {name: value.cpu() for name, value in real._asdict().items()})


def measure_floor(distance: FrechetDistance, held_out: ImageSet, num: int, batch_size: int) -> Floor | None:
    """The distance of `num` held-out images to the same training images that generated ones are compared with.

    What a perfect model would reach at that `num`: the distance of equal distributions falls as 1 / num, it is not zero. With
    fewer held-out images it is that of all of them, which is said in a line and belongs under another name (`floor_protocol`);
    None if there are not even two. All processes call it; generated images are forgotten before and after.
    """
    available = min(num, len(held_out))
    if rank_and_size()[0] == 0 and available < num:
        log.warning("the data has %d held-out images, so the floor of FID is not at n=%d as FID itself", available, num)
    if available < 2:
        return None
    distance.reset()
    for images in batches(held_out, available, batch_size):
        distance.update_generated(images)
    floor = Floor(distance.compute(), distance.num_generated)
    distance.reset()
    return floor
