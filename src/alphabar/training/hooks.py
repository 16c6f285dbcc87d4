"""Functions by which callbacks and loggers look at a Trainer, each with a type that is checked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from lightning.pytorch import LightningModule, Trainer

from alphabar.data import Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.training.ema import averaged
from alphabar.training.modules.base import BaseModule
from alphabar.training.modules.diffusion import DiffusionModule


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Returns whether an optimizer step ended with this batch, so that no gradients wait for the next one."""
    num_batches = batch_idx + 1
    return num_batches % trainer.accumulate_grad_batches == 0 or num_batches == trainer.num_training_batches


def log_every_n_steps(trainer: Trainer) -> int:
    """Returns the number of optimizer steps from one row of figures to the next."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]


def base_module(pl_module: LightningModule) -> BaseModule:
    """Returns the module as a BaseModule. Raises TypeError for another one."""
    if not isinstance(pl_module, BaseModule):
        raise TypeError(f"this callback looks at a BaseModule, got {type(pl_module).__name__}")
    return pl_module


def diffusion_module(pl_module: LightningModule) -> DiffusionModule:
    """Returns the module as a DiffusionModule. Raises TypeError for another one."""
    if not isinstance(pl_module, DiffusionModule):
        raise TypeError(f"this callback looks at a DiffusionModule, got {type(pl_module).__name__}")
    return pl_module


def image_data(trainer: Trainer) -> ImageDataModule:
    """Returns the run's data as an ImageDataModule. Raises TypeError for another one."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(datamodule, ImageDataModule):
        raise TypeError(f"this callback looks at an ImageDataModule, got {type(datamodule).__name__}")
    return datamodule


def image_shape(trainer: Trainer) -> Shape:
    """Returns the shape of the run's images."""
    return image_data(trainer).shape


@contextmanager
def evaluation(trainer: Trainer, module: BaseModule, live: bool = False) -> Iterator[None]:
    """Prepares the module for evaluation inside the context: averaged weights, no dropout, no gradients, the run's precision.

    live: keep the live weights in place of their averages.
    The time inside is added to `seconds_evaluating` of the module, so that images per second are those of training.
    """
    begin = time.perf_counter()
    was_training = module.training
    module.eval()
    try:
        weights = nullcontext() if live else averaged(trainer, module)
        with torch.no_grad(), weights, trainer.precision_plugin.forward_context():
            yield
    finally:
        module.train(was_training)
        module.seconds_evaluating += time.perf_counter() - begin
