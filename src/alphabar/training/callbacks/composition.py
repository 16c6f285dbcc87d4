"""The lines at the beginning of a run that list what it is composed of."""

from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer

from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import printable
from alphabar.training.callbacks import RunCallback
from alphabar.training.hooks import base_module, image_data

COLORS = {1: "grey", 3: "RGB"}


class Composition(RunCallback):
    """Prints data, network, method, precision and steps before training starts; the first process does."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data = image_data(trainer)
        module = base_module(pl_module)
        lines = {
            "data": describe_data(data),
            **data.remarks,
            **describe_choices(module.config.get("choices", {})),
            **module.composition,
            **describe_training(trainer, data.batch_size),
        }
        for name, text in lines.items():
            print(printable(f"  {name:<10} {text}"), flush=True)


def describe_data(data: ImageDataModule) -> str:
    """Returns the number of training images, their size, and what is known of them: "797 images 8x8 grey, 10 classes (Digits)"."""
    channels, resolution = data.shape
    parts = [f"{len(data.train_set):,} images {resolution}x{resolution} {COLORS[channels]}"]
    if data.classes is not None:
        parts.append(f"{len(data.classes)} classes")
    if data.captions is not None:
        parts.append(f"{len(data.captions):,} captions")
    return f"{', '.join(parts)} ({type(data).__name__})"


def describe_choices(choices: Mapping[str, str]) -> dict[str, str]:
    """Returns the line of the preset and what it chose: "digits (network=unet_tiny, features=classifier, recipe=digits)"."""
    if "preset" not in choices:
        return {}
    chosen = [f"{group}={choices[group]}" for group in ("network", "features", "recipe") if group in choices]
    return {"preset": f"{choices['preset']} ({', '.join(chosen)})"}


def describe_training(trainer: Trainer, batch_size: int) -> dict[str, str]:
    """Returns the lines of precision and steps; batch_size: of each process."""
    processes, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    device = f"{trainer.strategy.root_device.type} x {processes}" if processes > 1 else trainer.strategy.root_device.type
    limits = {"step": trainer.max_steps, "epoch": trainer.max_epochs or -1}
    known = [f"{number:,} {name}{'' if number == 1 else 's'}" for name, number in limits.items() if number > 0]
    return {
        "precision": f"{trainer.precision} on {device}",
        "steps": f"{' or '.join(known) or 'no limit'}, {batch_size * processes * accumulated:,} images a step",
    }
