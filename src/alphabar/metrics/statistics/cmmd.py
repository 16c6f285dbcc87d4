"""CLIP maximum mean discrepancy."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.statistics import Statistic

SIGMA = 10.0
FACTOR = 1000.0  # the factor of the paper, for readable figures
CHUNK = 1000
MIN_IMAGES = 2


@dataclass(frozen=True)
class CMMD(Statistic):
    """The value 1000 * (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)) of unit CLIP embeddings (Jayasumana et al. 2024, eq. 3).

    k(x, y) = exp(-|x - y|^2 / (2 * 10^2)); the means are over all pairs, an image with itself among them.

    max_images: the maximal number of images of each kind, of which the first are used.

    Raises ValueError unless max_images >= 2.
    """

    max_images: int = 10000

    def __post_init__(self) -> None:
        if self.max_images < MIN_IMAGES:
            raise ValueError(f"need max_images >= {MIN_IMAGES}, got max_images={self.max_images}")

    def applies(self, extractor: Extractor) -> bool:
        return extractor.name.startswith("clip")

    def min_images(self, num_features: int) -> int:
        return MIN_IMAGES

    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        x, y = (F.normalize(kind.rows[: self.max_images].double(), dim=1) for kind in (generated, real))
        return {"cmmd": FACTOR * (mean_excess(x, x) + mean_excess(y, y) - 2 * mean_excess(x, y))}


def mean_excess(x: Tensor, y: Tensor) -> float:
    """Returns mean k - 1 over all pairs of rows of [N, D] and [M, D], float64, of length one, so that |x - y|^2 = 2 - 2 x . y.

    k itself is so close to one that digits would be lost; the ones cancel in the figure.
    """
    total = sum(((part @ y.T - 1) / SIGMA**2).expm1().sum() for part in x.split(CHUNK))
    return float(total) / (len(x) * len(y))
