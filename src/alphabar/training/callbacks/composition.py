"""The lines at the beginning of a run that list what it is composed of."""

from lightning.pytorch import LightningModule, Trainer

from alphabar.data.datamodule import ImageDataModule
from alphabar.training.callbacks import RunCallback
from alphabar.training.hooks import base_module, image_data

COLORS = {1: "grey", 3: "RGB"}


class Composition(RunCallback):
    """Prints data, network, method, precision and steps before training starts; the first process does."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data = image_data(trainer)
        lines = {"data": describe_data(data), **base_module(pl_module).composition, **describe_training(trainer, data.batch_size)}
        for name, text in lines.items():
            print(f"  {name:<10} {text}", flush=True)


def describe_data(data: ImageDataModule) -> str:
    """Returns the number of training images, their size, and what is known of them: "797 images 8x8 grey, 10 classes (Digits)"."""
    channels, resolution = data.shape
    parts = [f"{len(data.train_set):,} images {resolution}x{resolution} {COLORS[channels]}"]
    if data.classes is not None:
        parts.append(f"{len(data.classes)} classes")
    if data.captions is not None:
        parts.append(f"{len(data.captions):,} captions")
    return f"{', '.join(parts)} ({type(data).__name__})"


def describe_training(trainer: Trainer, batch_size: int) -> dict[str, str]:
    """Returns the lines of precision and steps; batch_size: of each process."""
    processes, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    device = f"{trainer.strategy.root_device.type} x {processes}" if processes > 1 else trainer.strategy.root_device.type
    limits = {
        "steps": f"{trainer.max_steps:,}" if trainer.max_steps > 0 else None,
        "epochs": f"{trainer.max_epochs:,}" if trainer.max_epochs is not None and trainer.max_epochs > 0 else None,
    }
    limit = " or ".join(f"{number} {name}" for name, number in limits.items() if number is not None) or "no limit"
    return {
        "precision": f"{trainer.precision} on {device}",
        "steps": f"{limit}, {batch_size * processes * accumulated:,} images a step",
    }
