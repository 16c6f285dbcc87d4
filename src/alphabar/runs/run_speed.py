"""The speed of a run in a line, from its figures, and what would make it faster."""

from collections.abc import Callable
from typing import NamedTuple

from alphabar.runs.provenance.current_command import with_invocations

UTILIZATION = ("train/mfu", "train/peak_memory_mb", "train/waiting_for_data", "train/evaluating")
CLOCKED = ("train/images_per_second", "train/seconds", *UTILIZATION)  # the figures in which equal runs differ
LONG_WAIT, MOSTLY_EVALUATION = 0.1, 0.5  # shares of the time from which there is advice


class RunSpeed(NamedTuple):
    """The figures of `SpeedFigures` over a whole run, each None if the run does not have it; shares are 0..1."""

    images_per_second: float | None
    mfu: float | None
    peak_memory_mb: float | None
    waiting_for_data: float | None
    evaluating: float | None

    def line(self) -> str:
        """Returns the figures that there are: "812 images/s in training, MFU 31%, ..., peak memory 612 MB"."""
        rate = self.images_per_second
        parts = [] if rate is None else [f"{rate:{',.0f' if rate >= 100 else '.3g'}} images/s in training"]
        parts += [] if self.mfu is None else [f"MFU {self.mfu:.2%}" if self.mfu < 0.01 else f"MFU {self.mfu:.0%}"]
        parts += [] if self.waiting_for_data is None else [f"{self.waiting_for_data:.1%} of that time waiting for data"]
        parts += [] if self.evaluating is None else [f"{self.evaluating:.0%} of the run in evaluation"]
        parts += [] if self.peak_memory_mb is None else [f"peak memory {self.peak_memory_mb:,.0f} MB"]
        return ", ".join(parts)

    def advice(self) -> str:
        """Returns what to change where waiting or evaluation take a large share; "" where neither does."""
        parts = []
        if self.waiting_for_data is not None and self.waiting_for_data > LONG_WAIT:
            parts.append(with_invocations("data.num_workers=N, data.resident=true or python prepare.py give images sooner"))
        if self.evaluating is not None and self.evaluating > MOSTLY_EVALUATION:
            parts.append("a larger every_n_steps, or a smaller num, of callbacks.fid, samples and others evaluates less")
        return "; ".join(parts)


def run_speed(figure: Callable[[str], float | None]) -> RunSpeed:
    """Returns the speed of a run; figure: returns the newest value of a figure by its name, or None."""
    images, seconds, rate, mfu = (figure(f"train/{name}") for name in ("images", "seconds", "images_per_second", "mfu"))
    overall = images / seconds if images and seconds else None
    return RunSpeed(
        overall,
        mfu * overall / rate if mfu is not None and overall and rate else None,  # of the newest row: brought to the whole run
        figure("train/peak_memory_mb"),
        figure("train/waiting_for_data"),
        figure("train/evaluating"),
    )
