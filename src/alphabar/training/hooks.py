"""Functions by which callbacks and loggers reach the parts of a Trainer, each with a type that is checked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.training.ema import averaged_weights
from alphabar.training.modules.base import BaseModule
from alphabar.training.modules.diffusion import DiffusionModule
from alphabar.training.modules.trial import evaluation_mode

M = TypeVar("M", bound=BaseModule)


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Returns whether an optimizer step ended with this batch, so that no gradients wait for the next one."""
    num_batches = batch_idx + 1
    return num_batches % trainer.accumulate_grad_batches == 0 or num_batches == trainer.num_training_batches


def log_every_n_steps(trainer: Trainer) -> int:
    """Returns the number of optimizer steps from one row of figures to the next."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]


def checked_module(pl_module: LightningModule, kind: type[M], callback: Callback | None = None) -> M:
    """Returns the module. Raises UserError unless it is of the class `kind`, which the callback is for."""
    if not isinstance(pl_module, kind):
        name = "one of them" if callback is None else type(callback).__name__
        raise UserError(f"callbacks: {name} is for {kind.__name__}, and this run trains {type(pl_module).__name__}")
    return pl_module


def base_module(pl_module: LightningModule) -> BaseModule:
    """Returns the module as a BaseModule; see `checked_module`."""
    return checked_module(pl_module, BaseModule)


def diffusion_module(pl_module: LightningModule, callback: Callback) -> DiffusionModule:
    """Returns the module as a DiffusionModule; see `checked_module`."""
    return checked_module(pl_module, DiffusionModule, callback)


def image_data(trainer: Trainer) -> ImageDataModule:
    """Returns the run's data as an ImageDataModule. Raises TypeError for another one."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(datamodule, ImageDataModule):
        raise TypeError(f"callbacks need an ImageDataModule, got {type(datamodule).__name__}")
    return datamodule


@contextmanager
def evaluation(trainer: Trainer, module: BaseModule, live: bool = False) -> Iterator[None]:
    """Prepares the module for evaluation inside the context: averaged weights, no dropout, no gradients, the run's precision.

    live: keep the live weights in place of their averages.
    The time inside is added to `seconds_evaluating` of the module, so that images per second are those of training.
    """
    begin = time.perf_counter()
    try:
        weights = nullcontext() if live else averaged_weights(trainer, module)
        with evaluation_mode(module), torch.no_grad(), weights, trainer.precision_plugin.forward_context():
            yield
    finally:
        module.seconds_evaluating += time.perf_counter() - begin
