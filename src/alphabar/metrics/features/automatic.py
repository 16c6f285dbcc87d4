"""The features that suit the data best and need no download."""

from dataclasses import dataclass

from alphabar.metrics import Extractor, Features, Splits
from alphabar.metrics.features.classifier import ClassifierFeatures, lack_of_classes
from alphabar.metrics.features.feature_network import USUAL_SIDE
from alphabar.metrics.features.self_supervised import SelfSupervisedFeatures


@dataclass(frozen=True)
class AutomaticFeatures(Features):
    """The features of `ClassifierFeatures` where the training images have classes, else those of `SelfSupervisedFeatures`.

    Arguments and errors are those of both.
    """

    cache_dir: str
    max_images: int
    max_side: int = USUAL_SIDE

    def __post_init__(self) -> None:
        ClassifierFeatures(self.cache_dir, self.max_images, self.max_side)

    def extractors(self, splits: Splits) -> list[Extractor]:
        kind = ClassifierFeatures if lack_of_classes(splits) is None else SelfSupervisedFeatures
        return kind(self.cache_dir, self.max_images, self.max_side).extractors(splits)
