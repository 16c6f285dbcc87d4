"""The measurement of one set of images, read once, in several kinds of features."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.bits import rounded_to_uint8
from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.metrics.collector import Batch, collect
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.health import ImageStatistics
from alphabar.runs.processes.distributed import sum_over_ranks
from alphabar.sampling.sampling_job import SampleBatch, gather_images

EXAMPLE_BYTES = 64 * 2**20
MAX_EXAMPLES = 1000


class Measurement(NamedTuple):
    """The result for one set of images.

    figures: by extractor, then by kind. features: in the extractor of the first reference. examples: the first images, uint8
    [G, C, H, W] on the CPU. num_nonfinite: the number of images with NaN or infinity, excluded from everything else. content: a
    hash of the images.
    """

    figures: Mapping[str, Mapping[str, float]]
    features: FeatureSet
    pixels: ImageStatistics
    examples: Tensor
    num_nonfinite: int
    content: str


def measure_images(
    images: Iterable[SampleBatch],
    size: tuple[int, int, int],
    references: Sequence[ReferenceStatistics],
    targets: Callable[[Tensor], Mapping[str, Tensor]] = lambda indices: {},
) -> Measurement:
    """Returns the measurement; all processes call it, each with its share of the images, and all get the same result.

    size: (C, H, W) of an image. targets: returns the conditions of the images of int64 indices [B], see `Collector.add`.
    """
    num_examples = min(references[0].num, MAX_EXAMPLES, max(1, EXAMPLE_BYTES // (size[0] * size[1] * size[2])))
    collectors = [reference.collector() for reference in references]
    device = collectors[0].device
    num_nonfinite = torch.zeros(1, dtype=torch.int64, device=device)
    examples: list[SampleBatch] = []

    def finite_images() -> Iterator[Batch]:
        for part in images:
            finite = part.finite.cpu()
            num_nonfinite.add_(int((~finite).sum()))
            first = [place for place, index in enumerate(part.indices) if index < num_examples]
            if first:
                shown = rounded_to_uint8(part.images[first].cpu())
                examples.append(SampleBatch([part.indices[place] for place in first], shown, finite[first]))
            indices = torch.tensor(part.indices)[finite]
            yield Batch(indices, part.images[part.finite.to(part.images.device)], targets(indices))

    features, pixels, content = collect(finite_images(), collectors, size[0])
    return Measurement(
        {reference.extractor.name: reference.figures(each) for reference, each in zip(references, features, strict=True)},
        features[0],
        pixels,
        gather_images(size, num_examples, examples, device, bits=8),
        int(sum_over_ranks(num_nonfinite)),
        content,
    )
