"""The features that suit the data best and need no download."""

from alphabar.metrics import Extractor, Splits
from alphabar.metrics.features.classifier import ClassifierFeatures, lack_of_classes
from alphabar.metrics.features.feature_network import TrainedFeatures
from alphabar.metrics.features.self_supervised import SelfSupervisedFeatures


class AutomaticFeatures(TrainedFeatures):
    """The features of `ClassifierFeatures` if the training images have classes, else those of `SelfSupervisedFeatures`."""

    def extractors(self, splits: Splits) -> list[Extractor]:
        kind = ClassifierFeatures if lack_of_classes(splits) is None else SelfSupervisedFeatures
        return kind(self.cache_dir, self.max_images, self.max_side).extractors(splits)
