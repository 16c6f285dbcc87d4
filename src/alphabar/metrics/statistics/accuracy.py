"""Whether images are of the class that they should be of."""

from dataclasses import dataclass

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.statistics import Statistic


@dataclass(frozen=True)
class Accuracy(Statistic):
    """The share of images that a classifier of the data's own classes puts into the class that the model was told.

    The classifier is that of features=classifier, which knows nothing of the model; the floor is its accuracy on held-out images.
    """

    def applies(self, extractor: Extractor) -> bool:
        return extractor.labels is not None

    def min_images(self, num_features: int) -> int:
        return 1

    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        """Nothing for images that should be of no class."""
        if generated.hits is None:
            return {}
        hits, asked = generated.hits.tolist()
        return {"accuracy": hits / asked}
