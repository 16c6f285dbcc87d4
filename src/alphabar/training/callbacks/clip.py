"""Writes a trained CLIP for other commands to load."""

import logging
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.files.paths import display_path
from alphabar.models.clip.small import save_clip
from alphabar.training.hooks import checked_module, evaluation
from alphabar.training.modules.contrastive import ContrastiveModule
from alphabar.training.recovery.finite import nonfinite_weight

log = logging.getLogger(__name__)
FOLDER = "clip"


class ExportCLIP(Callback):
    """Writes RUN/clip/ at the end of training, with averaged weights if the run keeps any."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checked_module(pl_module, ContrastiveModule, self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = checked_module(pl_module, ContrastiveModule, self)
        if not trainer.is_global_zero:
            return
        if (name := nonfinite_weight(trainer, module)) is not None:
            log.warning("the CLIP is not exported, since %s is not finite", name)
            return
        folder = Path(trainer.default_root_dir) / FOLDER
        with evaluation(trainer, module):
            save_clip(module.towers, folder)
        print(f"CLIP: {display_path(folder)}", flush=True)
