"""The trained autoencoder as others read it."""

import os
import shutil
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.training.callbacks.reconstructions import autoencoder_module
from alphabar.training.hooks import evaluation

FOLDER = "autoencoder"


class Export(Callback):
    """Writes RUN/autoencoder/ at the end of training, as diffusers' save_pretrained does: averaged weights if the run keeps any.

    Whoever looks meanwhile finds a whole folder, the new one or one of an earlier end, or none.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = autoencoder_module(pl_module)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / FOLDER
        partial, old = (folder.with_name(f".{FOLDER}.{os.getpid()}.{what}") for what in ("partial", "old"))
        try:
            with evaluation(trainer, module):
                module.autoencoder.save(partial)
            if folder.exists():
                os.replace(folder, old)
            os.replace(partial, folder)
        finally:
            for path in (partial, old):
                shutil.rmtree(path, ignore_errors=True)
