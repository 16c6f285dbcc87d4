"""A pair that other commands can use, at the end of its training."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.errors import UserError
from alphabar.models.pairs.small import write
from alphabar.runs.console import shown
from alphabar.training.hooks import evaluation
from alphabar.training.modules.contrastive import ContrastiveModule

FOLDER = "pair"


class WritePair(Callback):
    """Writes `pair/` in the run's folder, with averaged weights if the run keeps any."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, ContrastiveModule):
            raise UserError(f"callbacks.pair: writes pairs, this run trains a {type(pl_module).__name__}")
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / FOLDER
            with evaluation(trainer, pl_module):
                write(pl_module.towers, folder)
            print(f"image-text pair: {shown(folder)}", flush=True)
