"""The verdict on a run in a few plain sentences, from its figures and from how it ended."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alphabar.evaluation.table import format_number
from alphabar.reports.health import health_rows
from alphabar.reports.run_record import RunRecord
from alphabar.runs.floor import MORE_HELD_OUT
from alphabar.runs.metrics_csv import RunMetrics
from alphabar.runs.sweeps.sweep import finite_number

NEAR_COPIES = "near copies"
# Up to how many times the floor a FID is called what; they are words for a reader, and no statistics.
FID_WORDS = ((1.1, "as good as real images by this measure"), (2.0, "close to real images"), (5.0, "some way from real images"))
USUAL_NUM_FEATURES = {"inception": 2048, "dinov2": 1024, "clip": 768}  # of the usual models
LATE = 0.75  # the last quarter of a run shows whether it was still getting better
CHANGE = 0.01  # relative: below it a loss has levelled off
NUM_POINTS = 4  # that a course needs at least


def run_verdict(metrics: RunMetrics, config: Mapping[str, Any], record: RunRecord) -> list[str]:
    """Returns sentences on how the run ended, on FID against its floor, the course of the loss, and the samples."""
    sentences = [end_sentence(config, record), fid_sentence(metrics), loss_sentence(metrics), samples_sentence(metrics)]
    return [sentence for sentence in sentences if sentence]


def end_sentence(config: Mapping[str, Any], record: RunRecord) -> str:
    """Returns how the run ended, if that was not as planned."""
    trainer, step = config.get("trainer"), finite_number(record.last.get("step"))
    planned = finite_number(trainer.get("max_steps")) if isinstance(trainer, Mapping) else None
    where = "" if step is None else f" at step {int(step):,}"
    where += f" of {int(planned):,}" if where and planned is not None and step is not None and planned > step else ""
    return {
        "stopped": f"A signal stopped it{where}.",
        "failed": f"An error ended it{where}.",
        "running": "It has not ended yet, or was killed.",
        "interrupted": "It was killed.",
    }.get(str(record.last.get("state")), "")


def fid_sentence(metrics: RunMetrics) -> str:
    """Returns FID as a multiple of its floor, with a word for it."""
    name = metrics.latest_fid()
    value = None if name is None else finite_number(metrics.last(name))
    if name is None or value is None:
        return ""
    pair = metrics.floor_pair(name)
    if pair is None or (ratio := pair.ratio) is None:
        return f"FID is {format_number(value)}; there is no floor, the FID of as many held-out images, to compare it with."
    word = next((word for bound, word in FID_WORDS if ratio <= bound), "far from real images")
    if not pair.is_mean:
        return f"FID {format_number(value)} is {pair.words}, that of held-out real images: {word}."
    if pair.num <= num_features_of(name):
        word = f"so few images tell little; {MORE_HELD_OUT}"
    return (
        f"FID is {format_number(value)}. Of {pair.num:,} samples at a time, as many as there are held-out images, it is "
        f"{format_number(pair.value)}, {pair.words}, that of these images: {word}."
    )


def num_features_of(fid: str) -> int:
    """Returns the number of features that a FID compares, by its name; 64 are those of pixels and of networks trained here."""
    kind = fid.partition("-")[2].partition("-")[0]
    return USUAL_NUM_FEATURES.get(kind.partition("_")[0], 64)


def loss_sentence(metrics: RunMetrics) -> str:
    """Returns whether the held-out loss, or else the training loss, was still falling at the end."""
    for column, title in (("held_out/loss_ema", "held-out loss"), ("held_out/loss", "held-out loss")):
        points = finite_points(metrics, column)
        if len(points) >= NUM_POINTS:
            return f"The {title} {held_out_course(points)}."
    points = finite_points(metrics, "train/loss")
    return f"The training loss {training_course(points)}." if len(points) >= 4 * NUM_POINTS else ""


def finite_points(metrics: RunMetrics, column: str) -> list[tuple[int, float]]:
    """Returns (step, value) of a column without step 0, whose loss is that of the untrained network."""
    steps, values = metrics.columns.get(column, ([], []))
    return [(step, value) for step, value in zip(steps, values, strict=True) if step > 0 and math.isfinite(value)]


def held_out_course(points: Sequence[tuple[int, float]]) -> str:
    """Returns what became of a loss that has almost no noise: points (step, value)."""
    (last_step, last), (best_step, best) = points[-1], min(points, key=lambda point: point[1])
    before = [value for step, value in points if step <= LATE * last_step] or [points[0][1]]
    scale = abs(before[-1]) or 1.0
    if last - best > CHANGE * scale and best_step <= LATE * last_step:
        return f"has been rising since step {best_step:,}: from there on, the training images are learnt by heart"
    fall = (before[-1] - last) / scale
    if fall > CHANGE:
        return f"was still falling at the end, by {fall:.1%} in the last quarter: a longer run should be better"
    return "has levelled off"


def training_course(points: Sequence[tuple[int, float]]) -> str:
    """Returns what became of a noisy loss: its means over the last quarter and over the one before differ beyond chance or not."""
    values = [value for _, value in points]
    quarter = len(values) // 4
    late, early = values[-quarter:], values[-2 * quarter : -quarter]
    (mean, error), (mean_before, error_before) = mean_and_error(late), mean_and_error(early)
    change, noise = mean_before - mean, 2 * math.hypot(error, error_before)
    if abs(change) <= max(noise, CHANGE * abs(mean_before)):
        return "has levelled off"
    return "was still falling at the end: a longer run should be better" if change > 0 else "was rising at the end"


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and its standard error."""
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1) / len(values))


def samples_sentence(metrics: RunMetrics) -> str:
    """Returns what is wrong with the samples, or that nothing is; nothing where nobody looked."""
    rows = [row for row in health_rows(metrics) if row.healthy]
    bad = [f"{row.title} {row.value}" for row in rows if not row.is_healthy]
    if bad:
        return f"The samples are not healthy: {', '.join(bad)}."
    if not rows:
        return ""
    is_compared = any(row.title == NEAR_COPIES for row in rows)
    return "The samples are healthy" + (", and no copies of training images." if is_compared else ".")
