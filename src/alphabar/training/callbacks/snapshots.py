"""Averages kept for after training: any length of average can be made of them."""

import logging
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from alphabar.files.atomic import make_folder
from alphabar.runs.ema import posthoc
from alphabar.runs.ema.profiles import PowerFunction
from alphabar.training.callbacks.checkpoints import AtomicCheckpointIO
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.ema import weight_averages
from alphabar.training.recovery.finite import nonfinite_weight

log = logging.getLogger(__name__)


class Snapshots(Recurring):
    """Writes `ema/step_N.ckpt`, every so many steps and at the end, with the averages of a run that keeps power-function ones.

    Snapshots from after the checkpoint with which a run is resumed will be made again; the earlier ones move to `ema_replaced/`,
    which keeps the newest one of each step, however often a run is resumed.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        folder, step = Path(trainer.default_root_dir), trainer.global_step
        later = [path for when, path in posthoc.snapshots(folder).items() if when > step]
        if not later:
            return
        aside = make_folder(folder / f"{posthoc.FOLDER}_replaced")
        for path in later:
            path.replace(aside / path.name)

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        averages = weight_averages(trainer)
        if averages is None or averages.num_updates == 0 or not trainer.is_global_zero:
            return
        if (name := nonfinite_weight(trainer, pl_module)) is not None:
            log.warning("step %d: no snapshot of the averages is written, since %s is not finite", trainer.global_step, name)
            return
        path = posthoc.snapshot_path(Path(trainer.default_root_dir), averages.num_updates)
        if any(isinstance(profile, PowerFunction) for profile in averages.profiles) and not path.exists():
            AtomicCheckpointIO().save_checkpoint({"ema": averages.content()}, path)
