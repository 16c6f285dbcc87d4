"""Features of real images: the training images, as the reference of generated ones, and the held-out images, as the floor."""

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.files.cache import DiskCache
from alphabar.metrics.collector import Batch, Collector, collect
from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import ClassSums, FeatureSet, Sums
from alphabar.metrics.health import ImageStatistics
from alphabar.progress import show_progress
from alphabar.runs.processes.distributed import from_first, rank_and_size

VERSION = 5  # the version of the cached files
MAX_ROWS = 50_000  # the number of images whose single features are kept, among which nearest neighbours are searched


class RealImages(NamedTuple):
    """The features of real images.

    content: a hash of the images, independent of the names of their files. is_from_cache: whether an earlier run computed them.
    """

    features: FeatureSet
    pixels: ImageStatistics
    content: str
    is_from_cache: bool = False

    @property
    def num(self) -> int:
        return self.features.num


def real_image_features(
    extractor: Extractor, device: torch.device, images: ImageSet, split: str, fingerprint: str, num: int, batch_size: int
) -> RealImages:
    """Returns the features of the first `num` images of a split, from the cache, if there is one and an earlier run stored them.

    The first process gets the rows of the cache, those of the first 50,000 images, each read from the disk when it is used; the
    others get none. All processes call it.
    """
    if extractor.cache_dir is None:
        return _extract(extractor, device, images, num, batch_size)
    cache, is_first = DiskCache(extractor.cache_dir), rank_and_size()[0] == 0
    path = cache.path("real", VERSION, fingerprint, split, num, extractor.description)
    rows = torch.zeros(0, extractor.num_features)

    def load() -> dict[str, Any]:
        nonlocal rows
        stored, rows = _load_stored(cache, path, extractor.num_features)
        return stored

    with cache.locked(path) if is_first else nullcontext():
        known = from_first(load)
        if not known:
            real = _extract(extractor, device, images, num, batch_size)
            if is_first and cache.store_array(_path_of_rows(path), real.features.rows.numpy()):
                cache.store(path, _to_dict(real))
            return real
    classes = None if known["classes"] is None else ClassSums(*known["classes"])
    features = FeatureSet(Sums(*known["parts"]), rows, classes, known["matches"])
    return RealImages(features, ImageStatistics(known["pixels"]), known["content"], is_from_cache=True)


def _load_stored(cache: DiskCache, path: Path, num_features: int) -> tuple[dict[str, Any], Tensor]:
    """Returns the cached result of `_to_dict` and the rows, float32 [n, num_features]; both empty unless both are cached."""
    stored = cache.load(path)
    if stored is not None and cache.is_intact(_path_of_rows(path)):
        with suppress(OSError, ValueError):  # removed or replaced in between: they are made again
            return stored, torch.from_numpy(cache.map_array(_path_of_rows(path), np.float32, (stored["num_rows"], num_features)))
    return {}, torch.zeros(0, num_features)


def _path_of_rows(path: Path) -> Path:
    return path.with_suffix(".rows")


def _extract(extractor: Extractor, device: torch.device, images: ImageSet, num: int, batch_size: int) -> RealImages:
    rank, world_size = rank_and_size()

    def batches() -> Iterator[Batch]:
        with show_progress("looking at real images", num, "img", rank == 0) as bar:
            for indices in indices_of_rank(num, batch_size):
                yield Batch(indices, images.images(indices), images.metadata(indices))
                bar.update(len(indices) * world_size)

    (features,), pixels, content = collect(
        batches(), [Collector(extractor, device, num, MAX_ROWS, num_parts=1)], images.shape.channels
    )
    return RealImages(features, pixels, content)


def indices_of_rank(num: int, batch_size: int) -> Iterator[Tensor]:
    """Yields this process's share of the indices of the first `num` images in batches, without the repetitions of training."""
    rank, world_size = rank_and_size()
    for indices in torch.arange(rank, num, world_size).split(batch_size):
        if len(indices):
            yield indices


def _to_dict(real: RealImages) -> dict[str, object]:
    """Returns plain tensors on the CPU, numbers and texts, for the cache: all but the rows."""
    features = real.features
    return {
        "parts": [value.cpu() for value in features.parts],
        "num_rows": len(features.rows),
        "classes": None if features.classes is None else [value.cpu() for value in features.classes],
        "matches": None if features.matches is None else features.matches.cpu(),
        "pixels": real.pixels.sums.cpu(),
        "content": real.content,
    }
