"""Callbacks of a run: averages, figures, pictures, checkpoints."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class RunCallback(Callback):
    """A callback that says of itself what a run must know before it begins.

    draws_images: whether it decodes samples to images, so that it cannot look at a model whose codec makes none.
    """

    draws_images = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the folder of a Trainer of one's own, if there is none; that of a run is there already."""
        if trainer.is_global_zero:
            Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)

    def planned_evaluations(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """Returns how many images the network will evaluate in what the callback does from here to the end of the run."""
        return 0
