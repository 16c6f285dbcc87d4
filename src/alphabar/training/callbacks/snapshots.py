"""Averages kept for after training: any length of average can be made of them."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.runs.ema import posthoc
from alphabar.runs.ema.profiles import PowerFunction
from alphabar.training.callbacks.checkpoints import AtomicCheckpointIO
from alphabar.training.ema import averages_of
from alphabar.training.hooks import due


class Snapshots(Callback):
    """Writes `ema/step_N.ckpt`, every so many steps and at the end, with the averages of a run that keeps power-function ones.

    Nothing is overwritten. Those that a run wrote after the checkpoint with which it is taken up will be made again; they are set
    aside in `ema_after_step_N/`.
    Raises ValueError unless every_n_steps >= 1.
    """

    def __init__(self, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise ValueError(f"need every_n_steps >= 1, got every_n_steps={every_n_steps}")
        self.every_n_steps = every_n_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        folder, step = Path(trainer.default_root_dir), trainer.global_step
        later = [path for when, path in posthoc.snapshots(folder).items() if when > step]
        if not later:
            return
        aside, number = folder / f"{posthoc.FOLDER}_after_step_{step}", 1
        while aside.exists():
            number += 1
            aside = folder / f"{posthoc.FOLDER}_after_step_{step}_{number}"
        aside.mkdir()
        for path in later:
            path.replace(aside / path.name)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if due(trainer, self.every_n_steps, last=-1):
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        averages = averages_of(trainer)
        if averages is None or averages.num_updates == 0 or not trainer.is_global_zero:
            return
        path = posthoc.path_of(Path(trainer.default_root_dir), averages.num_updates)
        if any(isinstance(profile, PowerFunction) for profile in averages.profiles) and not path.exists():
            AtomicCheckpointIO().save_checkpoint({"ema": averages.content()}, path)
