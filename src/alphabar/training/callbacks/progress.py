"""Progress of a run and the time left."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from alphabar.progress import ProgressBar, format_duration, show_progress
from alphabar.training.hooks import base_module, log_every_n_steps


class Progress(Callback):
    """Shows a bar over all optimizer steps with loss, images/s, FID and time left; without a terminal, a line now and then.

    seconds: the interval between two lines where there is no terminal. Raises ValueError unless seconds > 0.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        if not seconds > 0:
            raise ValueError(f"need seconds > 0, got seconds={seconds}")
        self.seconds = seconds
        self.bar: tqdm | None = None
        self.total: int | None = None
        self.first_step = 0
        self.begin = 0.0
        self.last_line_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        steps = trainer.estimated_stepping_batches
        self.total = int(steps) if math.isfinite(steps) else None
        self.first_step = trainer.global_step
        self.begin = self.last_line_at = time.monotonic()
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, initial=self.first_step, unit="step", dynamic_ncols=True, desc="training")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.is_global_zero:
            return
        if self.bar is not None:
            if trainer.global_step % log_every_n_steps(trainer) == 0:
                self.bar.set_postfix_str(summary(base_module(pl_module).figures), refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)
        elif time.monotonic() - self.last_line_at >= self.seconds:
            self.last_line_at = time.monotonic()
            figures = summary(base_module(pl_module).figures)
            print(f"step {trainer.global_step:,}{self._remaining(trainer)}, {figures}", file=sys.stderr, flush=True)

    def catch_up(self, trainer: Trainer) -> None:
        """Shows the step that has ended, before something else takes long."""
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)
            self.bar.refresh()

    def _remaining(self, trainer: Trainer) -> str:
        if self.total is None:
            return ""
        pace = (self.last_line_at - self.begin) / max(1, trainer.global_step - self.first_step)
        return f" of {self.total:,}, {format_duration(round(pace * (self.total - trainer.global_step)))} left"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:  # the last figures may have come after the bar's last step
            self.bar.set_postfix_str(summary(base_module(pl_module).figures))
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def summary(figures: dict[str, float]) -> str:
    """Returns the latest loss, images per second, MFU and FID in one line."""
    speed = {"images/s": ("train/images_per_second", ",.0f"), "MFU": ("train/mfu", ".0%")}
    shown = {"loss": ("train/loss", ".4f"), **speed, "FID": ("fid", ".3g")}
    return ", ".join(f"{label} {figures[name]:{form}}" for label, (name, form) in shown.items() if name in figures)


@contextmanager
def show_phase(trainer: Trainer, title: str, total: float | None, unit: str) -> Iterator[ProgressBar]:
    """Shows the progress of what the run does besides training, on the first process, unless the run shows none of its own.

    title, total, unit: see `show_progress`; the step is added to the title.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    bars = [callback for callback in callbacks if isinstance(callback, Progress)]
    for bar in bars:
        bar.catch_up(trainer)
    is_shown = trainer.is_global_zero and bool(bars)
    with show_progress(f"{title} at step {trainer.global_step:,}", total, unit, is_shown) as progress:
        yield progress
