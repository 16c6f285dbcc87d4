"""Progress of what takes long, as a bar in a terminal and as lines where there is none, and durations in words."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

SECONDS = 10.0  # between two lines


class ProgressBar(Protocol):
    """A bar, or what stands in its place."""

    def update(self, n: float = 1) -> object:
        """Notes that `n` more are done."""

    def reset(self, total: float) -> object:
        """Begins again, with another total."""


class ProgressLines:
    """Prints how far something is when it has taken SECONDS, and again every SECONDS: "FID at step 1,800: 40%, 12 s left"."""

    def __init__(self, title: str, total: float | None) -> None:
        self.title = title
        self.total = total
        self.num = 0.0
        self.begin = self.last_line_at = time.monotonic()

    def update(self, n: float = 1) -> None:
        self.num += n
        now = time.monotonic()
        if now - self.last_line_at >= SECONDS:
            self.last_line_at = now
            print(self.line(now - self.begin), file=sys.stderr, flush=True)

    def reset(self, total: float) -> None:
        self.num, self.total = 0.0, total

    def line(self, seconds: float) -> str:
        """Returns the line after so many seconds."""
        if not self.total or not self.num:
            return f"{self.title}: {self.num:,.0f} so far"
        left = seconds / self.num * max(self.total - self.num, 0)
        return f"{self.title}: {self.num / self.total:.0%}, {format_duration(left)} left"


@contextmanager
def show_progress(title: str, total: float | None, unit: str, is_shown: bool = True) -> Iterator[ProgressBar]:
    """Shows the progress of something that may take long, named by its title, after a second.

    total: the number of `unit` that there are; None if that is not known. is_shown: false on all processes but one.
    """
    if not is_shown or sys.stderr.isatty():
        with tqdm(
            desc=title, total=total, unit=unit, delay=1, leave=False, dynamic_ncols=True, mininterval=0.2, disable=not is_shown
        ) as bar:
            yield bar
    else:
        yield ProgressLines(title, total)


def format_duration(seconds: float) -> str:
    """Returns a time span as "2 days 3 h", "2 h 05 min", "3 min 20 s" or "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f"{counted(days, 'day')} {hours_of_day} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.3g} s"


def counted(number: int, name: str) -> str:
    """Returns a number of things: "1 step", "1,800 steps"."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"
