"""Callbacks that act again and again during training."""

import math
from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from alphabar.runs.checkpoints.checkpoint import Types, must_have_types
from alphabar.training.callbacks import RunCallback
from alphabar.training.callbacks.stopping import Interrupted

# What the checkpoints have of it and, where they have it, of the classes below it.
STATE: Types = {
    "last_step": int,
    "last_was_end": bool,
    "is_due": bool,
    "last_was_skipped": bool,
    "sums": Tensor,
    "num_nonfinite": Tensor,
    "parts": dict,
    "seconds": (int, float),
    "images": int,
    "waiting": (int, float),
    "evaluating": (int, float),
}


class Recurring(RunCallback, ABC):
    """Acts every so many optimizer steps and at the end, once at each of these steps, in a resumed run too.

    A signal to stop may end it in the middle, see `interruptible`: then it is due, of which checkpoints tell, and the resumed run
    begins with it.

    differs_at_end: whether `act` does more with `is_last`. If a limit that nobody foresaw (`max_epochs`, `max_time`) ends a run at
    a step at which the callback has acted, it acts once more.
    acts_at_start: whether it also acts before the first step.
    Raises ValueError unless every_n_steps >= 1.
    """

    differs_at_end = False
    acts_at_start = False

    def __init__(self, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise ValueError(f"need every_n_steps >= 1, got every_n_steps={every_n_steps}")
        self.every_n_steps = every_n_steps
        self.last_step = -1
        self.last_was_end = False
        self.is_due = False  # whether a signal has cut it off

    @abstractmethod
    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        """Does what the callback is for. is_last: whether training ends here."""

    def interval(self, trainer: Trainer) -> int:
        """Returns after how many optimizer steps the callback acts again."""
        return self.every_n_steps

    def num_acts(self, trainer: Trainer) -> int:
        """Returns how often it acts from here on; 0 if nobody knows when the run ends."""
        begin, end, interval = trainer.global_step, trainer.estimated_stepping_batches, self.interval(trainer)
        if not math.isfinite(end) or end <= begin:
            return 0
        return -(-int(end) // interval) - begin // interval + (self.acts_at_start and begin == 0)

    def act_now(self, trainer: Trainer, pl_module: LightningModule, is_last: bool = False) -> None:
        """Acts, and takes note of it first, so that a checkpoint that is written meanwhile has it."""
        self.last_step, self.last_was_end, self.is_due = trainer.global_step, is_last, False
        try:
            self.act(trainer, pl_module, is_last)
        except Interrupted:
            self.is_due = True

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step, "last_was_end": self.last_was_end, "is_due": self.is_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        must_have_types(state_dict, STATE, f"checkpoint: its callbacks.{type(self).__name__}.")
        self.last_step = state_dict.get("last_step", -1)
        self.last_was_end = state_dict.get("last_was_end", True)  # older checkpoints do not say
        self.is_due = state_dict.get("is_due", False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_due or (self.acts_at_start and trainer.global_step == 0):
            self.act_now(trainer, pl_module, is_last=trainer.global_step == trainer.max_steps)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        is_last = step == trainer.max_steps
        if 0 < step != self.last_step and (is_last or step % self.interval(trainer) == 0):
            self.act_now(trainer, pl_module, is_last)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.last_step != trainer.global_step or (self.differs_at_end and not self.last_was_end):
            self.act_now(trainer, pl_module, is_last=True)


def is_any_due(trainer: Trainer) -> bool:
    """Returns whether a signal has cut a callback off that has still to act; the same on all processes."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(callback.is_due for callback in callbacks if isinstance(callback, Recurring))
