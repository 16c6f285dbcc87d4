"""Functions that all pictures share: their style, their files, and their scales."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphabar.files.atomic import atomic_writer
from alphabar.files.picture_text import cut
from alphabar.runs.provenance.picture_record import picture_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

STYLE: "dict[RcKeyType, Any]" = {
    "text.parse_math": False,  # a $ in a value that was swept is a dollar
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "svg.fonttype": "none",
}
DPI = 110


@contextmanager
def figure_file(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Yields an empty figure of width x height inches to draw on, and writes it to the file at the end, with the command in it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with atomic_writer(path) as file:
            text = {key: cut(value) for key, value in picture_record({}).text().items()}
            figure.savefig(file, format="png", dpi=DPI, metadata=text)


def round_ticks(low: float, high: float, is_logarithmic: bool = False) -> list[float]:
    """Returns three or more round values within low..high, for an axis whose limits these are.

    A logarithmic axis has them at powers of ten or, of less than three decades, at 1, 2 and 5 times these.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    candidates: list[Iterable[float]] = [MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3).tick_values(low, high)]
    if is_logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        one_two_five = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        candidates = [LogLocator(numticks=7).tick_values(low, high), one_two_five, *candidates]
    ticks: list[float] = []
    for candidate in candidates:
        ticks = [float(tick) for tick in candidate if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def set_ticks(axis: "Axis", places: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """Marks these places of an axis and no others; with their values as labels where none are given."""
    axis.set_ticks(places, tick_labels(places) if labels is None else labels)
    axis.set_ticks([], minor=True)


def tick_labels(places: Sequence[float]) -> list[str]:
    """Returns the values with four significant digits, or with as many more as tell them apart."""
    labels: list[str] = []
    for num_digits in range(4, 18):
        labels = [re.sub(r"e([+-])0*", lambda sign: f"e{sign[1]}".rstrip("+"), f"{place:.{num_digits}g}") for place in places]
        if len(set(labels)) == len(labels):
            break
    return labels


def spans_decades(values: Sequence[float]) -> bool:
    """Returns whether the values are positive and their largest is at least ten times their smallest."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= 10


def scale_y(axes: "Axes", values: Sequence[float]) -> None:
    """Makes the y axis logarithmic where the values span a decade, and puts round ticks on it."""
    is_logarithmic = spans_decades(values)
    if is_logarithmic:
        axes.set_yscale("log")
    set_ticks(axes.yaxis, round_ticks(*axes.get_ylim(), is_logarithmic))
