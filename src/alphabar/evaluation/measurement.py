"""The measurement of one set of images, read once, in several kinds of features."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.metrics.content import content_hash, legible
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.health import ImageStatistics
from alphabar.runs.distributed import sum_over_ranks
from alphabar.sampling.sampling_job import Generated, gather

GALLERY_BYTES = 64 * 2**20
MAX_GALLERY = 1000


class Measurement(NamedTuple):
    """The result for one set of images.

    figures: by extractor, then by kind. features: of the first judge. gallery: the first images, uint8 [G, C, H, W] on the CPU.
    num_nonfinite: the number of images with NaN or infinity, excluded from everything else. content: a hash of the images.
    """

    figures: Mapping[str, Mapping[str, float]]
    features: FeatureSet
    pixels: ImageStatistics
    gallery: Tensor
    num_nonfinite: int
    content: str


def measure(
    share: Iterable[Generated],
    size: tuple[int, int, int],
    judges: Sequence[ReferenceStatistics],
    facts: Callable[[Tensor], Mapping[str, Tensor]] = lambda indices: {},
) -> Measurement:
    """Returns the measurement; all processes call it, each with its share of the images, and all get the same result.

    size: (C, H, W) of an image. facts: returns the conditions of the images of int64 indices [B], see `Collector.add`.
    """
    gallery_size = min(judges[0].num, MAX_GALLERY, max(1, GALLERY_BYTES // (size[0] * size[1] * size[2])))
    collectors = [judge.collector() for judge in judges]
    home = collectors[0].device
    pixels = ImageStatistics.empty(size[0], home)
    counts = torch.zeros(2, dtype=torch.int64, device=home)  # non-finite images, content
    kept: list[Generated] = []
    for part in share:
        finite = part.finite.cpu()
        counts[0] += int((~finite).sum())
        indices = torch.tensor(part.indices)[finite]
        images = part.images[part.finite]
        pixels += ImageStatistics.of(images)
        counts[1] += content_hash(images)
        for collector in collectors:
            collector.add(indices, images, facts(indices))
        shown = [place for place, index in enumerate(part.indices) if index < gallery_size]
        if shown:
            kept.append(Generated([part.indices[place] for place in shown], part.images[shown].cpu(), finite[shown]))
    features = [collector.collected() for collector in collectors]
    num_nonfinite, content = sum_over_ranks(counts).tolist()
    return Measurement(
        {judge.extractor.name: judge.figures(each) for judge, each in zip(judges, features, strict=True)},
        features[0],
        pixels.of_all_processes(),
        gather(size, gallery_size, kept, home),
        num_nonfinite,
        legible(content),
    )
