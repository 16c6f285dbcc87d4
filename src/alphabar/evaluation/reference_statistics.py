"""Statistics of the real images in one kind of features, and figures of other images against them."""

import logging
from collections.abc import Mapping

import torch

from alphabar.metrics import Splits, TooFewImages
from alphabar.metrics.collector import Collector
from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.real import RealImages, real_image_features
from alphabar.metrics.statistics import Statistic
from alphabar.runs.distributed import from_first, rank_and_size

log = logging.getLogger(__name__)
NUM_ROWS = 10_000  # the number of images whose single features are kept, for figures that compare pairs of images


class ReferenceStatistics:
    """Holds the features of the training images, and of as many held-out images as will be evaluated, if there are that many.

    This is no nn.Module, so that the extractor is neither averaged nor saved nor cast with the evaluated model. All processes
    construct it and call all of its methods.

    statistics: by name; those that do not apply to these features are left out, and so are, with a line in the log, those that take
        more images than there are, generated or real.
    Raises TooFewImages if that leaves none.
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
        self.device = device
        self.num = num
        self.train_set = splits.train
        self.statistic_names: dict[str, str] = {}  # by kind of figure, the statistic that computes it
        self.statistics = self._computable({name: each for name, each in statistics.items() if each.applies(extractor)})
        key = splits.fingerprint
        self.real = real_image_features(extractor, device, splits.train, "train", key, len(splits.train), batch_size)
        num_held_out = min(num, len(splits.held_out))
        self.held_out: RealImages | None = None
        if num_held_out >= 2:
            self.held_out = real_image_features(extractor, device, splits.held_out, "held-out", key, num_held_out, batch_size)

    def _computable(self, statistics: Mapping[str, Statistic]) -> dict[str, Statistic]:
        """Returns the statistics for which there are enough images, and names the others."""
        needs = {name: each.min_images(self.extractor.num_features) for name, each in statistics.items()}
        kind, num = min(("generated", self.num), ("training", len(self.train_set)), key=lambda pair: pair[1])
        lacking = [name for name, need in needs.items() if num < need]
        got = f"images of each kind in {self.extractor.name} features, got {num} {kind} image{'' if num == 1 else 's'}"
        if lacking and len(lacking) == len(statistics):
            name = min(lacking, key=needs.__getitem__)
            raise TooFewImages(f"statistics.{name}: takes {needs[name]} {got}")
        if lacking and rank_and_size()[0] == 0:
            log.warning("left out: %s %s", "; ".join(f"statistics.{name} takes {needs[name]}" for name in lacking), got)
        return {name: each for name, each in statistics.items() if name not in lacking}

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
