"""A metric: numbers of each image, and what they say of all."""

from torch import Tensor

from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.statistics import PerImageMetric


class CellSize(PerImageMetric):
    """The mean number of bright pixels of an image; its floor is that of held-out images."""

    def measure(self, images: Tensor) -> Tensor:
        return (images > 127).flatten(1).sum(1)

    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        return {"cell_size": float(generated.rows.mean())}
