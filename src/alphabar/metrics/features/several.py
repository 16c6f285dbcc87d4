"""Several kinds of features at once."""

import logging
from dataclasses import dataclass, field

from alphabar.errors import UserError
from alphabar.metrics import Extractor, Features, Splits, suitable_extractors
from alphabar.runs.processes.distributed import rank_and_size

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Several(Features):
    """The features of all members that are available; None leaves a member out.

    missing: one line for each member that was not available in the last call, with the reason.

    Raises ValueError if all are None.
    """

    inception: Features | None
    dinov2: Features | None
    clip: Features | None
    missing: dict[str, str] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        if not self._members():
            raise ValueError("need at least one of inception, dinov2 and clip, got null for each")

    def _members(self) -> dict[str, Features]:
        members = {"inception": self.inception, "dinov2": self.dinov2, "clip": self.clip}
        return {name: features for name, features in members.items() if features is not None}

    @property
    def reads_captions(self) -> bool:
        return any(features.reads_captions for features in self._members().values())

    def extractors(self, splits: Splits) -> list[Extractor]:
        """Returns the extractors of all available members. Raises UserError, with all reasons, if there are none."""
        self.missing.clear()
        found = []
        for name, features in self._members().items():
            try:
                found += suitable_extractors(features, splits)
            except UserError as error:
                reason = str(error).removeprefix(f"{name}: ")
                self.missing[name] = reason.replace("features.weights", f"features.{name}.weights")
        if not found:
            raise UserError("features=all has none: " + "; ".join(f"{name}: {reason}" for name, reason in self.missing.items()))
        if rank_and_size()[0] == 0:
            for name, reason in self.missing.items():
                log.warning("features=all goes without %s: %s", name, reason)
        return found
