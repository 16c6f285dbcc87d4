"""The accuracy of class-conditional generation."""

from dataclasses import dataclass

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.statistics import Statistic


@dataclass(frozen=True)
class Accuracy(Statistic):
    """The share of images that a classifier of the data's own classes assigns to the class the model was conditioned on.

    The classifier is that of features=classifier, which is independent of the model; the floor is its accuracy on held-out images.
    """

    def applies(self, extractor: Extractor) -> bool:
        return extractor.labels is not None

    def min_images(self, num_features: int) -> int:
        return 1

    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        """Returns the accuracy; empty for images without a class."""
        rate = generated.match_rate
        return {} if rate is None else {"accuracy": rate}
