"""Statistics that compute figures from the features of generated and of real images, each in a file of its own."""

from abc import ABC, abstractmethod

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet


class Statistic(ABC):
    """A statistic computes one figure or a few related ones; it is stateless, so that it depends on its settings alone."""

    @abstractmethod
    def applies(self, extractor: Extractor) -> bool:
        """Returns whether the statistic applies to features of this kind."""

    @abstractmethod
    def min_images(self, num_features: int) -> int:
        """Returns the minimal numbers of generated and of real images."""

    @abstractmethod
    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        """Returns the figures by name, such as {"kid": 0.001}; NaN where features are NaN or infinite."""
