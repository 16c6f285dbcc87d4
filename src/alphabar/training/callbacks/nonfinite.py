"""Steps whose loss or gradient is not finite: counted, written down, and answered by a policy."""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.files.paths import display_path
from alphabar.runs.checkpoints.checkpoint import must_have_types
from alphabar.training.callbacks import RunCallback
from alphabar.training.hooks import base_module, image_data, log_every_n_steps
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.modules.base import BaseModule
from alphabar.training.recovery.rollback import roll_back
from alphabar.training.recovery.skipped_steps import FILE, SeenBatch, SeenStep, add_rows, batch_rows, keep_rows_until

log = logging.getLogger(__name__)
MAX_ROLLBACKS = 3  # of a run
MAX_PENDING = 200  # steps between two looks at the device
COUNTS = ("in_a_row", "longest", "total", "num_reported", "num_rollbacks")  # that a checkpoint has
ADVICE = "lower optimizer.lr, or set trainer.gradient_clip_val, or train with trainer.precision=32-true"


class NonFiniteSteps(RunCallback):
    """Answers steps that `BaseModule` has skipped since their loss or gradient was NaN or infinite.

    A skipped step changes neither the weights nor the state of the optimizer. It counts as a step all the same: the learning rate,
    the averages, the data and the noise go on. The norms are looked at every `trainer.log_every_n_steps` steps, so that no step
    waits for the device; `nonfinite.csv` then gets what repeats a skipped step (see `batch_rows`). All processes decide alike.

    policy: what follows when `max_in_a_row` steps in a row were skipped.
        skip: the run ends with a line that says what to try.
        rollback: weights, optimizer and averages become those of the last checkpoint from before; the step, the learning rate, the
            data and the noise go on, so that training does not meet the same numbers again. After MAX_ROLLBACKS the run ends.
        stop: the run ends at the first look that finds a skipped step.
    Raises ValueError unless max_in_a_row >= 1, and UserError to end a run.
    """

    def __init__(self, policy: Literal["skip", "rollback", "stop"] = "skip", max_in_a_row: int = 20) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"need max_in_a_row >= 1, got max_in_a_row={max_in_a_row}")
        self.policy = policy
        self.max_in_a_row = max_in_a_row
        self.in_a_row = 0  # up to the newest step
        self.longest = 0  # series since the last look
        self.total = 0
        self.num_reported = 0
        self.num_rollbacks = 0
        self.seen_step = 0
        self.batches: list[SeenBatch] = []  # of the step under way
        self.steps: list[SeenStep] = []  # that have not been counted
        self.folder = Path()
        self.data: ImageDataModule | None = None

    def state_dict(self) -> dict[str, Any]:
        self.count()
        return {name: getattr(self, name) for name in COUNTS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        must_have_types(state_dict, dict.fromkeys(COUNTS, int), "checkpoint: its callbacks.NonFiniteSteps.")
        for name in COUNTS:
            setattr(self, name, state_dict.get(name, 0))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder, self.data, self.seen_step = Path(trainer.default_root_dir), image_data(trainer), trainer.global_step
        if trainer.is_global_zero:
            keep_rows_until(trainer.global_step, self.folder)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        module, data = base_module(pl_module), image_data(trainer)
        number = data.num_batches_seen - 1
        self.batches.append(SeenBatch(number, module.batch_seed, outputs["loss"], outputs["losses"], outputs.get("levels")))
        if trainer.global_step == self.seen_step or module.grad_norm is None:  # a batch that only accumulated gradients
            return
        self.seen_step = trainer.global_step
        self.steps.append(SeenStep(trainer.global_step, module.grad_norm, tuple(self.batches)))
        self.batches = []
        if trainer.global_step % log_every_n_steps(trainer) == 0 or trainer.global_step == trainer.max_steps:
            self._look(trainer, module)
        elif len(self.steps) >= MAX_PENDING:
            self.count()

    def count(self) -> None:
        """Counts and writes down the skipped ones of the steps since the last call; all processes call it. Waits for the device."""
        if not self.steps:
            return
        skipped: list[SeenStep] = []
        is_finite = torch.stack([each.grad_norm for each in self.steps]).isfinite().tolist()
        for each, finite in zip(self.steps, is_finite, strict=True):
            self.in_a_row = 0 if finite else self.in_a_row + 1
            self.longest = max(self.longest, self.in_a_row)
            skipped += [] if finite else [each]
        self.total += len(skipped)
        self.steps = []
        if skipped:
            assert self.data is not None
            add_rows([row for each in skipped for row in batch_rows(each, self.data)], self.folder)

    def newest_was_skipped(self) -> bool:
        """Returns whether the newest step was skipped; see `count`."""
        self.count()
        return self.in_a_row > 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count()
        self._report(trainer)

    def _report(self, trainer: Trainer) -> bool:
        """Returns whether steps were skipped since the last report; a line and a figure say how many."""
        num = self.total - self.num_reported
        if num == 0:
            return False
        self.num_reported = self.total
        log.warning(
            "step %d: skipped %d step%s since the last look, whose loss or gradient was not finite (%s)",
            trainer.global_step, num, "" if num == 1 else "s", display_path(self.folder / FILE),
        )  # fmt: skip
        log_figures(trainer, {"train/num_nonfinite_steps": self.total})
        return True

    def _look(self, trainer: Trainer, module: BaseModule) -> None:
        self.count()
        is_new, longest, self.longest = self._report(trainer), self.longest, 0
        if self.policy == "stop" and is_new:
            raise self._error("the loss or its gradient was not finite")
        if longest >= self.max_in_a_row:
            reason = f"the loss or its gradient was not finite in {longest} steps in a row"
            if self.policy != "rollback":
                raise self._error(reason)
            self._roll_back(trainer, module, reason)

    def _error(self, reason: str) -> UserError:
        return UserError(f"{reason}, at step {self.seen_step}: {ADVICE}; {display_path(self.folder / FILE)} has the batches")

    def _roll_back(self, trainer: Trainer, module: BaseModule, reason: str) -> None:
        if self.num_rollbacks == MAX_ROLLBACKS:
            raise self._error(f"{reason}, after {MAX_ROLLBACKS} rollbacks")
        step = roll_back(trainer, module, was_finite)
        if step is None:
            raise self._error(f"{reason}, and there is no checkpoint from before to go back to")
        self.num_rollbacks += 1
        self.in_a_row = 0
        log.warning("step %d: %s; weights, optimizer and averages are those of step %d again", self.seen_step, reason, step)


def was_finite(content: dict[str, Any]) -> bool:
    """Returns whether the newest step before a checkpoint was not skipped."""
    return content["callbacks"].get("NonFiniteSteps", {}).get("in_a_row", 0) == 0


def nonfinite_steps(trainer: Trainer) -> NonFiniteSteps | None:
    """Returns the NonFiniteSteps callback of the trainer, or None if it has none."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, NonFiniteSteps)), None)
