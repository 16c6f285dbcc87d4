"""Features of real images: the training images, as the reference of generated ones, and the held-out images, as the floor."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alphabar.data import ImageSet
from alphabar.files.cache import DiskCache
from alphabar.metrics.collector import Collector
from alphabar.metrics.content import content_hash, legible
from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import ClassSums, FeatureSet, Sums
from alphabar.metrics.health import ImageStatistics
from alphabar.runs.distributed import from_first, rank_and_size, sum_over_ranks

VERSION = 3  # the version of the cached files
MAX_ROWS = 50_000  # the number of images whose single features are kept, among which nearest neighbours are searched


class RealImages(NamedTuple):
    """The features of real images. content: a hash of the images, independent of the names of their files."""

    features: FeatureSet
    pixels: ImageStatistics
    content: str

    @property
    def num(self) -> int:
        return self.features.num


def batches(num: int, batch_size: int) -> Iterator[Tensor]:
    """Yields this process's share of the indices of the first `num` images, without the repetitions of training."""
    rank, world_size = rank_and_size()
    for indices in torch.arange(rank, num, world_size).split(batch_size):
        if len(indices):
            yield indices


def learn(
    extractor: Extractor, device: torch.device, images: ImageSet, split: str, fingerprint: str, num: int, batch_size: int
) -> RealImages:
    """Returns the features of the first `num` images of a split, from the cache if an earlier run stored them.

    Only the first process gets the rows, which are those of the first 50,000 images; rows from the cache stay on the disk until
    they are used. All processes call it.
    """
    cache = DiskCache(extractor.cache_dir)
    path = cache.path("real", VERSION, fingerprint, split, num, extractor.record)
    rows_file = path.with_suffix(".npy")
    shape = (min(num, MAX_ROWS), extractor.num_features)
    known = from_first(lambda: cache.load(path) if _is_complete(rows_file, shape) else None)
    if known is not None:
        rows = torch.from_numpy(np.load(rows_file, mmap_mode="c")) if rank_and_size()[0] == 0 else torch.zeros(0, shape[1])
        classes = ClassSums(*known["classes"]) if known["classes"] else None
        features = FeatureSet(Sums(*known["parts"]), rows, classes, known["hits"])
        return RealImages(features, ImageStatistics(known["pixels"]), known["content"])
    found = _look_at(extractor, device, images, num, batch_size)
    if rank_and_size()[0] == 0:
        classes = None if found.features.classes is None else [value.cpu() for value in found.features.classes]
        parts = [value.cpu() for value in found.features.parts]
        cache.store_file(rows_file, lambda file: np.save(file, found.features.rows.numpy()))
        hits = None if found.features.hits is None else found.features.hits.cpu()
        content = {"parts": parts, "classes": classes, "hits": hits, "pixels": found.pixels.sums.cpu(), "content": found.content}
        cache.store(path, content)
    return found


def _look_at(extractor: Extractor, device: torch.device, images: ImageSet, num: int, batch_size: int) -> RealImages:
    rank, world_size = rank_and_size()
    collector = Collector(extractor, device, num, MAX_ROWS, num_parts=1)
    pixels = ImageStatistics.empty(images.shape.channels, collector.device)
    content = torch.zeros((), dtype=torch.int64, device=collector.device)
    quiet = True if rank else None  # None: the bar is hidden if there is no terminal
    with tqdm(desc="looking at real images", total=num, unit="img", delay=2, leave=False, disable=quiet) as bar:
        for indices in batches(num, batch_size):
            batch = images.images(indices)
            collector.add(indices, batch, images.metadata(indices))
            pixels += ImageStatistics.of(batch)
            content += content_hash(batch)
            bar.update(len(indices) * world_size)
    return RealImages(collector.collected(), pixels.of_all_processes(), legible(int(sum_over_ranks(content))))


def _is_complete(rows_file: Path, shape: tuple[int, int]) -> bool:
    try:
        rows: Any = np.load(rows_file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return rows.shape == shape and rows.dtype == np.float32
