"""Export of the trained autoencoder in the format of diffusers."""

import logging
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.files.atomic import replaced_folder
from alphabar.training.hooks import checked_module, evaluation
from alphabar.training.modules.autoencoder import AutoencoderModule
from alphabar.training.recovery.finite import nonfinite_weight

log = logging.getLogger(__name__)
FOLDER = "autoencoder"


class Export(Callback):
    """Writes RUN/autoencoder/ at the end of training, as diffusers' save_pretrained does: averaged weights if the run keeps any.

    Another process finds a complete folder at any time, the new one or an earlier one, or none.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checked_module(pl_module, AutoencoderModule, self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = checked_module(pl_module, AutoencoderModule, self)
        if not trainer.is_global_zero:
            return
        if (name := nonfinite_weight(trainer, module)) is not None:
            log.warning("the autoencoder is not exported, since %s is not finite", name)
            return
        with replaced_folder(Path(trainer.default_root_dir) / FOLDER) as folder, evaluation(trainer, module):
            module.autoencoder.save(folder)
