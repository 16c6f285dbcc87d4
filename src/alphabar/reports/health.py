"""Signs of health that were logged in training, and what they mean."""

from typing import NamedTuple

from alphabar.evaluation.table import format_number
from alphabar.metrics.health import CAST_LEVELS, CONTRAST, DIVERSITY, SATURATION
from alphabar.metrics.memorisation import SHARE
from alphabar.runs.metrics_csv import RunMetrics


class HealthCheck(NamedTuple):
    """A column of metrics.csv, what it means, and the range in which the samples are healthy; high=None: no upper end."""

    column: str
    title: str
    description: str
    low: float
    high: float | None

    def is_healthy(self, value: float) -> bool:
        return self.low <= value and (self.high is None or value <= self.high)

    @property
    def healthy_range(self) -> str:
        if self.high is None:
            return f"at least {self.low:g}"
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"


HEALTH_CHECKS = (
    HealthCheck("samples/num_nonfinite", "broken samples", "samples with NaN or infinity in them; they are in no figure", 0, 0),
    HealthCheck(
        "health/colour_cast", "colour cast", "grey levels that the worst channel is off the data's mean", -CAST_LEVELS, CAST_LEVELS
    ),
    HealthCheck("health/contrast", "contrast", "standard deviation of pixels, relative to the data's", *CONTRAST),
    HealthCheck("health/saturated", "saturation", "share of values that are exactly 0 or 255, minus the data's", -1, SATURATION),
    HealthCheck(
        "health/diversity", "diversity", "variance of features relative to the data's; towards 0 all look alike", DIVERSITY, None
    ),
    HealthCheck("health/near_copies", "near copies", "share as near to training images as 1% of held-out images are", 0, SHARE),
)


class HealthRow(NamedTuple):
    """A row of the table of signs. healthy: the range, empty for a sign that this version does not know."""

    title: str
    value: str
    healthy: str
    is_healthy: bool
    description: str
    step: str


def health_rows(metrics: RunMetrics) -> list[HealthRow]:
    """Returns a row for each sign of health that was logged, with its last value."""
    known = {check.column: check for check in HEALTH_CHECKS}
    rows = []
    for column, (steps, values) in metrics.columns.items():
        value, step = format_number(values[-1]), f"{steps[-1]:,}"
        if check := known.get(column):
            rows.append(HealthRow(check.title, value, check.healthy_range, check.is_healthy(values[-1]), check.description, step))
        elif column.startswith("health/"):
            rows.append(HealthRow(column.removeprefix("health/").replace("_", " "), value, "", False, "", step))
    return rows


def health_warnings(metrics: RunMetrics) -> list[str]:
    """Returns a line if the last samples had NaN or infinity in them."""
    num = metrics.last("samples/num_nonfinite")
    return [f"{num:g} samples have NaN or infinity in them, and are in no figure"] if num else []
