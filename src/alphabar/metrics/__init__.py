"""Metrics of image quality.

A `Features` (`automatic`, `classifier`, `self_supervised`, `pixels`, `inception`, `dinov2`, `clip`, `contrastive`, `several`) makes
extractors, from images to the vectors that metrics compare. A `Collector` accumulates the features of many images, `real` caches
those of real images on the disk, and `statistics` compute figures from both, with `retrieval` to choose captions. `health` checks
the pixels, `memorisation` searches for copies of training images, and `names` defines the names under which figures are logged.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from alphabar.data import ImageSet
from alphabar.errors import UserError
from alphabar.metrics.extractor import Extractor


class TooFewImages(UserError):
    """An error about images that are fewer than features or figures take; a run goes on without them."""


class Splits(NamedTuple):
    """The data as metrics use them: both splits, without flips, the fingerprint of their source, and captions, if they are read."""

    train: ImageSet
    held_out: ImageSet
    fingerprint: str
    captions: Sequence[str] | None = None


class Features(ABC):
    """A source of feature extractors; a choice of the `features` group builds one."""

    @property
    def reads_captions(self) -> bool:
        """Whether captions of the data take part, in `Splits.captions`."""
        return False

    @abstractmethod
    def extractors(self, splits: Splits) -> list[Extractor]:
        """Returns at least one extractor, the same on every process, on the CPU. All call this once, before the first step.

        Raises `UserError` on all of them if the data or a file does not allow it.
        """


def suitable_extractors(features: Features, splits: Splits) -> list[Extractor]:
    """Returns the extractors of the features. Raises UserError for those that do not take images of as many channels."""
    found, channels = features.extractors(splits), splits.train.shape.channels
    for extractor in found:
        if channels not in extractor.channels:
            takes = " or ".join(map(str, extractor.channels))
            raise UserError(f"{extractor.name} takes images of {takes} channels, these have {channels}; selfsup takes any number")
    return found


def build_extractors(features: Features, splits: Splits) -> list[Extractor]:
    """Returns the extractors of the features. Raises UserError, with the name of the group, if the data do not allow them."""
    try:
        return suitable_extractors(features, splits)
    except UserError as error:
        kind = TooFewImages if isinstance(error, TooFewImages) else UserError
        raise kind(f"features: {error}") from error
