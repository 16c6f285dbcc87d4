"""How good images are.

A `Features` (`classifier`, `inception`) makes an `Extractor`, from images to the vectors that they are judged by; `frechet`
measures the distance between two sets of vectors; `reference` brings in the real images and finds how far real images are from
each other; `names` says under which names figures are logged; `cache` keeps work from being done twice.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from alphabar.training.data import ImageSet
from alphabar.training.metrics.extractor import Extractor


class Splits(NamedTuple):
    """What metrics know of the data: both splits, without flips, and the fingerprint of their source."""

    train: ImageSet
    held_out: ImageSet
    fingerprint: str


class Features(ABC):
    """Where the features come from; what a choice of the `features` group builds."""

    @abstractmethod
    def extractor(self, splits: Splits) -> Extractor:
        """The same network on every process, on the CPU: every process calls this once, before the first step.

        Raises `UserError` on all of them if the data or a file does not allow it.
        """
