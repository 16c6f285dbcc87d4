"""Precision, recall, density and coverage."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.statistics import Statistic

NEIGHBOR_OF_PRECISION = 3
NEIGHBOR_OF_DENSITY = 5
CHUNK = 1000
MIN_IMAGES = NEIGHBOR_OF_DENSITY + 1


@dataclass(frozen=True)
class PRDC(Statistic):
    """Overlap of the generated and the real distribution by balls around features that reach to the k-th nearest neighbour.

    Precision: the share of generated images in some real image's ball; recall: the same with the kinds exchanged; k = 3, by
    torch-fidelity; Kynkaanniemi et al. 2019. Density: in how many of the real images' balls a generated image lies, over k, on
    average; coverage: the share of real images with a generated one in their ball; k = 5; Naeem et al. 2020.

    max_images: the maximal number of images of each kind, of which the first are used.

    Raises ValueError unless max_images >= 6.
    """

    max_images: int = 10000

    def __post_init__(self) -> None:
        if self.max_images < MIN_IMAGES:
            raise ValueError(f"need max_images >= {MIN_IMAGES}, got max_images={self.max_images}")

    def applies(self, extractor: Extractor) -> bool:
        return True

    def min_images(self, num_features: int) -> int:
        return MIN_IMAGES

    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        rows, real_rows = generated.rows[: self.max_images], real.rows[: self.max_images]
        if not all(bool(each.isfinite().all()) for each in (rows, real_rows)):
            return dict.fromkeys(("precision", "recall", "density", "coverage"), math.nan)
        found = prc_features_to_metric(
            rows, real_rows, prc_neighborhood=NEIGHBOR_OF_PRECISION, prc_batch_size=CHUNK, save_cpu_ram=True, verbose=False
        )
        density, coverage = density_and_coverage(rows, real_rows, NEIGHBOR_OF_DENSITY)
        return {
            "precision": found[KEY_METRIC_PRECISION],
            "recall": found[KEY_METRIC_RECALL],
            "density": density,
            "coverage": coverage,
        }


def density_and_coverage(generated: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """Returns both for features [M, D] and [N, D]; balls are open, as in the authors' code, so that equal sets have density one."""
    radii = torch.cat(
        [part.kthvalue(k + 1).values for part in squared_distances(real, real)]
    )  # the first distance is that to itself
    num_inside, num_covered = 0, 0
    for distances, radius in zip(squared_distances(real, generated), radii.split(CHUNK), strict=True):
        inside = distances < radius[:, None]
        num_inside += int(inside.sum())
        num_covered += int(inside.any(1).sum())
    return num_inside / (k * len(generated)), num_covered / len(real)


def squared_distances(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Yields squared distances of [N, D] and [M, D], float64 [CHUNK, M] for one part of `first` after another."""
    second = second.double()
    norms = second.square().sum(1)
    for part in first.split(CHUNK):
        part = part.double()
        yield (part.square().sum(1, keepdim=True) + norms - 2 * part @ second.T).clamp_min(0)
