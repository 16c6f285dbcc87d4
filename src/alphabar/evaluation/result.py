"""The result of an evaluation, which the command line prints."""

from pathlib import Path
from typing import NamedTuple

from alphabar.plotting.memorisation import MemorisationPanel


class EvaluationResult(NamedTuple):
    """The result of an evaluation.

    values: the figures by name, and the entries by which a sweep compares them; the same on every process. The first process alone
    has the rest. table: the figures as text. receipt: the file that holds them. panel: the picture of the images nearest to
    training images, which is not yet drawn; None if there are no such images.
    """

    values: dict[str, object]
    table: str = ""
    receipt: Path | None = None
    panel: MemorisationPanel | None = None
