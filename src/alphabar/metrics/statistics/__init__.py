"""Figures computed from the features of generated and of real images; one file for each."""

from abc import ABC, abstractmethod

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet


class Statistic(ABC):
    """One figure, or a few that belong together; stateless, so that its settings are all that it depends on."""

    @abstractmethod
    def applies(self, extractor: Extractor) -> bool:
        """Whether it is made for features of this kind."""

    @abstractmethod
    def min_images(self, num_features: int) -> int:
        """How many generated, and how many real images it takes at the least."""

    @abstractmethod
    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        """The figures by name, such as {"kid": 0.001}; NaN where features are NaN or infinite."""
