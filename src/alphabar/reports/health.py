"""Signs of health that were logged in training, with words."""

from typing import NamedTuple

from alphabar.metrics.health import CAST_LEVELS, CONTRAST, DIVERSITY, SATURATION
from alphabar.metrics.memorisation import SHARE
from alphabar.reports.markup import number, table, text
from alphabar.reports.metrics import Metrics


class Sign(NamedTuple):
    """A column, what it means, and between which values nothing is wrong."""

    column: str
    title: str
    words: str
    low: float
    high: float


SIGNS = (
    Sign("samples/num_nonfinite", "broken samples", "samples with NaN or infinity in them; they are in no figure", 0, 0),
    Sign(
        "health/colour_cast", "colour cast", "grey levels that the worst channel is off the data's mean", -CAST_LEVELS, CAST_LEVELS
    ),
    Sign("health/contrast", "contrast", "standard deviation of pixels, relative to the data's", *CONTRAST),
    Sign(
        "health/saturated",
        "saturation",
        "share of values that are exactly 0 or 255, minus the data's",
        -1,
        SATURATION,
    ),
    Sign("health/diversity", "diversity", "variance of features, relative to the data's; towards 0 all look alike", DIVERSITY, 1e9),
    Sign("health/near_copies", "near copies", "share as near to training images as 1% of held-out images are", 0, SHARE),
)


def section(metrics: Metrics) -> str:
    """A row for each sign; nothing if none was logged."""
    rows = []
    known = {sign.column: sign for sign in SIGNS}
    for column in metrics.columns:
        if column in known or column.startswith("health/"):
            sign = known.get(column)
            value, step = metrics.columns[column][1][-1], metrics.columns[column][0][-1]
            title, words = (sign.title, sign.words) if sign else (column.removeprefix("health/").replace("_", " "), "")
            rows.append([text(title), number(value), _range(sign), _verdict(sign, value), text(words), f"{step:,}"])
    if not rows:
        return ""
    quiet = '<p class="quiet">Of the samples that FID was measured on in training; with few images, values stray by chance.</p>'
    return table(["sign", "last value", "healthy", "verdict", "what it is", "at step"], rows) + quiet


def _range(sign: Sign | None) -> str:
    if sign is None:
        return ""
    if sign.high >= 1e9:
        return f"at least {sign.low:g}"
    return f"{sign.low:g}" if sign.low == sign.high else f"{sign.low:g} to {sign.high:g}"


def _verdict(sign: Sign | None, value: float) -> str:
    if sign is None:
        return ""
    is_fine = sign.low <= value <= sign.high
    return '<span class="badge good">fine</span>' if is_fine else '<span class="badge bad">look here</span>'


def broken(metrics: Metrics) -> list[str]:
    """A line if samples came out broken."""
    num = metrics.last("samples/num_nonfinite")
    return [f"{num:g} samples have NaN or infinity in them, and are in no figure"] if num else []
