"""Checkpoints: the last one, and the one with the best FID."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from alphabar.files.atomic import atomic_writer, remove_leftovers
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.stopping import StopSignals, stop
from alphabar.training.hooks import base_module, ends_step, log_every_n_steps


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames: whatever happens, a checkpoint is the old one or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        with atomic_writer(target) as file:
            torch.save(checkpoint, file)


class Checkpoints(Recurring, Checkpoint):
    """Writes `checkpoints/last.ckpt` every so many steps and at the end, and `checkpoints/best.ckpt` at every best FID.

    Ctrl-C and SIGTERM leave a last.ckpt, too: of the step that was under way, or with several processes of the next one that is
    logged, where they can agree on it. Lightning calls it after all other callbacks, so that the file has what they know of a step.
    If something ends training in the middle of a step (`max_time`), the step is finished first, so that no gradients are lost.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__(every_n_steps)
        self.best = math.inf
        self.signals = StopSignals()
        self.stops_after_step = False

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.best = state_dict["best"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._improved(pl_module):
            self.act_now(trainer, pl_module)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._finish_step(trainer, batch_idx)
        if not ends_step(trainer, batch_idx) or (trainer.world_size > 1 and trainer.global_step % log_every_n_steps(trainer) != 0):
            return
        if (number := self.signals.agreed_signal(pl_module.device)) is not None:
            if self.last_step != trainer.global_step:
                self.act_now(trainer, pl_module)
            stop(number)

    def _finish_step(self, trainer: Trainer, batch_idx: int) -> None:
        """Puts the end of training off while gradients of an unfinished step wait for more batches."""
        if not ends_step(trainer, batch_idx):
            self.stops_after_step = self.stops_after_step or trainer.should_stop
            trainer.should_stop = False
        elif self.stops_after_step:
            trainer.should_stop = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.signals.release()

    def _improved(self, pl_module: LightningModule) -> bool:
        return base_module(pl_module).figures.get("fid", math.inf) < self.best

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        folder, improved = Path(trainer.default_root_dir) / "checkpoints", self._improved(pl_module)
        if improved:
            self.best = base_module(pl_module).figures["fid"]
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
        if improved:
            trainer.save_checkpoint(folder / "best.ckpt", weights_only=False)
