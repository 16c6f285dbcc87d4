"""Statistics of the real images in one kind of features, and figures of other images against them."""

from collections.abc import Mapping

import torch

from alphabar.errors import UserError
from alphabar.metrics import Splits
from alphabar.metrics.collector import Collector
from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.real import RealImages, real_image_features
from alphabar.metrics.statistics import Statistic
from alphabar.runs.distributed import from_first

NUM_ROWS = 10_000  # the number of images whose single features are kept, for figures that compare pairs of images


class ReferenceStatistics:
    """Holds the features of the training images, and of as many held-out images as will be evaluated, if there are that many.

    This is no nn.Module, so that the extractor is neither averaged nor saved nor cast with the evaluated model. All processes
    construct it and call all of its methods.

    statistics: by name; those that do not apply to these features are left out.
    Raises UserError if there are too few images, generated or real, for one of them.
    """

    def __init__(
        self,
        extractor: Extractor,
        statistics: Mapping[str, Statistic],
        splits: Splits,
        device: torch.device,
        num: int,
        batch_size: int,
    ) -> None:
        self.extractor = extractor
        self.statistics = {name: each for name, each in statistics.items() if each.applies(extractor)}
        self.device = device
        self.num = num
        self.train_set = splits.train
        self.statistic_names: dict[str, str] = {}  # by kind of figure, the statistic that computes it
        self._check_num_images(len(splits.train))
        key = splits.fingerprint
        self.real = real_image_features(extractor, device, splits.train, "train", key, len(splits.train), batch_size)
        num_held_out = min(num, len(splits.held_out))
        self.held_out: RealImages | None = None
        if num_held_out >= 2:
            self.held_out = real_image_features(extractor, device, splits.held_out, "held-out", key, num_held_out, batch_size)

    def _check_num_images(self, num_real: int) -> None:
        for name, statistic in self.statistics.items():
            need = statistic.min_images(self.extractor.num_features)
            for kind, num in (("generated", self.num), ("training", num_real)):
                if num < need:
                    raise UserError(
                        f"statistics.{name}: takes {need} images of each kind in {self.extractor.name} features, got {num} "
                        f"{kind} images; statistics.{name}=null leaves it out"
                    )

    def collector(self, num: int | None = None) -> Collector:
        """Returns a collector for the images to evaluate; None: as many as this was constructed for."""
        return Collector(self.extractor, self.device, self.num if num is None else num, NUM_ROWS)

    def figures(self, images: FeatureSet, only: str | None = None) -> dict[str, float]:
        """Returns all figures by name, or those of one statistic, without statistics that need more images than there are."""
        size, chosen = self.extractor.num_features, self.statistics if only is None else {only: self.statistics[only]}
        computable = {name: each for name, each in chosen.items() if images.num >= each.min_images(size)}

        def compute() -> dict[str, dict[str, float]]:
            return {name: each.compute(images, self.real.features) for name, each in computable.items()}

        computed = from_first(compute)  # the other processes have no rows of real images
        self.statistic_names |= {what: name for name, figures in computed.items() for what in figures}
        return {what: value for figures in computed.values() for what, value in figures.items()}

    def floor(self) -> dict[str, float]:
        """Returns the figures of the held-out images; none if there are too few of them."""
        return {} if self.held_out is None else self.figures(self.held_out.features)
