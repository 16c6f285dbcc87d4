"""How good images are.

A `Features` (`classifier`, `inception`, `dinov2`, `clip`, `contrastive`, `several`) makes extractors, from images to the vectors
that they are judged by. A `Collector` keeps what is needed of the features of many images, `real` does so of real ones and keeps it
on the disk, and `statistics` make figures of both, with `retrieval` to choose captions. `health` looks at pixels,
`memorisation` at copies of training images; `names` says under which names figures are logged.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from alphabar.data import ImageSet
from alphabar.metrics.extractor import Extractor


class Splits(NamedTuple):
    """What metrics know of the data: both splits, without flips, the fingerprint of their source, and its captions, if any."""

    train: ImageSet
    held_out: ImageSet
    fingerprint: str
    captions: Sequence[str] | None = None


class Features(ABC):
    """Where the features come from; what a choice of the `features` group builds."""

    @abstractmethod
    def extractors(self, splits: Splits) -> list[Extractor]:
        """At least one; the same networks on every process, on the CPU: every process calls this once, before the first step.

        Raises `UserError` on all of them if the data or a file does not allow it.
        """
