"""Statistics of the real images in one kind of features, and figures of other images against them."""

import logging
import math
from collections.abc import Mapping, Sequence

import torch

from alphabar.errors import UserError
from alphabar.metrics import Splits, TooFewImages
from alphabar.metrics.collector import Collector
from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.real import RealImages, real_image_features
from alphabar.metrics.statistics import Statistic
from alphabar.metrics.statistics.frechet import mean_over_sets
from alphabar.runs.floor import BIASED, MEAN_FID, MORE_HELD_OUT
from alphabar.runs.processes.distributed import from_first, rank_and_size

log = logging.getLogger(__name__)
NUM_ROWS = 10_000  # the number of images whose single features are kept, for figures that compare pairs of images


class ReferenceStatistics:
    """Holds the features of the training images, and of as many held-out images as will be evaluated, if there are that many.

    Of the training images it takes the first `max_reference` of the extractor and of the data, if these are numbers. If there are
    fewer held-out images, they are 10,000 at most, since FID is then also measured of sets of as many generated images, whose
    single features it takes.

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
        limits = len(splits.train), extractor.max_reference, splits.train.max_reference
        num_train = min(limit for limit in limits if limit is not None)
        self.real = real_image_features(extractor, device, splits.train, "train", key, num_train, batch_size)
        available = len(splits.held_out)
        num_held_out = num if available >= num else min(available, NUM_ROWS)
        self.held_out: RealImages | None = None
        if num_held_out >= 2:
            self.held_out = real_image_features(extractor, device, splits.held_out, "held-out", key, num_held_out, batch_size)
        self._tell_of_cache()
        if 2 <= num_held_out < num and "fid" in self.statistics and rank_and_size()[0] == 0:
            log.warning(self._describe_floor(num_held_out))

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

    def _tell_of_cache(self) -> None:
        """Says which features need not be computed again."""
        sets = {"training": self.real, "held-out": self.held_out}
        kept = [f"{each.num:,} {kind}" for kind, each in sets.items() if each is not None and each.is_from_cache]
        if kept and rank_and_size()[0] == 0:
            log.info("%s features: those of %s images are kept from an earlier run", self.extractor.name, " and ".join(kept))

    def _describe_floor(self, num_held_out: int) -> str:
        """Returns a line on the floor of FID where there are fewer held-out images than generated ones."""
        name, size = self.extractor.name, self.extractor.num_features
        if num_held_out < (need := self.statistics["fid"].min_images(size)):
            remedy = f"{MORE_HELD_OUT}, or set statistics.fid.allow_few=true"
            return f"FID has no floor: it takes {need} held-out images in {name} features, got {num_held_out}; {remedy}"
        line = f"the floor of FID is of {num_held_out} held-out images; {MEAN_FID}, of as many samples at a time, compares with it"
        if num_held_out > size:
            return line
        return f"{line}, but with so few for {size} {name} features it tells little: {MORE_HELD_OUT}"

    def collector(self, num: int | None = None) -> Collector:
        """Returns a collector for the images to evaluate; None: as many as this was constructed for."""
        return Collector(self.extractor, self.device, self.num if num is None else num, NUM_ROWS)

    def figures(self, images: FeatureSet, only: str | None = None) -> dict[str, float]:
        """Returns all figures by name, or those of one statistic, without statistics that need more images than there are.

        Where there are fewer held-out images, FID is followed by `fid_mean`, its mean over sets of as many images as these are.
        """
        size, chosen = self.extractor.num_features, self.statistics if only is None else {only: self.statistics[only]}
        computable = {name: each for name, each in chosen.items() if images.num >= each.min_images(size)}

        def compute() -> dict[str, dict[str, float]]:
            found = {name: as_numbers(name, each.compute(images, self.real.features)) for name, each in computable.items()}
            return {name: figures | self._mean_fid(name, figures, images) for name, figures in found.items()}

        computed = from_first(compute)  # the other processes have no rows of real images
        self.statistic_names |= {what: name for name, figures in computed.items() for what in figures}
        return {what: value for figures in computed.values() for what, value in figures.items()}

    def _mean_fid(self, name: str, figures: Mapping[str, float], images: FeatureSet) -> dict[str, float]:
        """Returns what goes with the figures of the statistic `name`: the mean FID over sets, if FID is among them."""
        if self.held_out is None or not math.isfinite(figures.get("fid", math.nan)):
            return {}
        num, need = self.held_out.num, self.statistics[name].min_images(self.extractor.num_features)
        mean = mean_over_sets(images, self.real.features, num) if need <= num < images.num else None
        return {} if mean is None else {MEAN_FID: mean}

    def floor(self) -> dict[str, float]:
        """Returns the figures of the held-out images, each by the kind of figure that compares with it; none for too few images.

        If they are fewer than the evaluated images, their FID is the floor of `fid_mean`; CMMD, biased as well, then has none.
        """
        figures = {} if self.held_out is None else self.figures(self.held_out.features)
        if self.held_out is None or self.held_out.num == self.num:
            return figures
        means = {MEAN_FID: figures["fid"]} if "fid" in figures else {}
        return means | {metric: value for metric, value in figures.items() if metric not in BIASED}


def reference_statistics(
    extractors: Sequence[Extractor],
    statistics: Mapping[str, Statistic],
    splits: Splits,
    device: torch.device,
    num: int,
    batch_size: int,
) -> list[ReferenceStatistics]:
    """Returns the statistics in each kind of features that any of them applies to, then those of features of their own.

    The first ones are also those in which images are diagnosed: without figures, if all statistics have features of their own.
    Arguments and errors: see `ReferenceStatistics` and `Statistic.own_extractor`. Raises UserError if none applies to the features.
    """
    shape, size = splits.train.shape, (splits, device, num, batch_size)
    own = {name: found for name, each in statistics.items() if (found := each.own_extractor(name, shape)) is not None}
    shared = {name: each for name, each in statistics.items() if name not in own}
    fitting = [extractor for extractor in extractors if any(each.applies(extractor) for each in shared.values())]
    if not fitting and not own:
        names = ", ".join(extractor.name for extractor in extractors)
        found = f"{', '.join(shared)}: not for {names} features" if shared else "no statistics; name some, as in statistics=[fid]"
        raise UserError(f"statistics: nothing to measure, got {found}")
    fitting = fitting or list(extractors[:1])
    if names := [name for name in own if any(name == extractor.name for extractor in fitting)]:
        raise UserError(f"statistics.{names[0]}: there are features of this name; call it otherwise")
    return [
        *(ReferenceStatistics(extractor, shared, *size) for extractor in fitting),
        *(ReferenceStatistics(extractor, {name: statistics[name]}, *size) for name, extractor in own.items()),
    ]


def as_numbers(name: str, figures: Mapping[str, object]) -> dict[str, float]:
    """Returns what the statistic `name` computed as plain numbers. Raises UserError unless it is numbers by name."""
    try:
        return {what: float(value) for what, value in figures.items()}  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"statistics.{name}: need figures as numbers by name, got {figures!r}"[:300]) from error
