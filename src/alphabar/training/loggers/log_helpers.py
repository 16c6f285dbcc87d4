"""Functions that log figures and pictures to every logger of a run in its own format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from alphabar.files.reading import open_image
from alphabar.sampling.image_grid import to_pil
from alphabar.training.hooks import base_module


@runtime_checkable
class LogsImages(Protocol):
    """The interface of loggers that keep pictures, such as those of wandb and MLflow; `caption` has one text for each image."""

    def log_image(self, key: str, images: list[Any], step: int | None, *, caption: list[str | None]) -> None: ...


@runtime_checkable
class LogsVideos(Protocol):
    """The interface of loggers that keep films; `format` has one format for each of `videos`, the paths of files."""

    def log_video(self, key: str, videos: list[Any], step: int | None, *, format: list[str]) -> None: ...


def log_figures(trainer: Trainer, figures: Mapping[str, float]) -> None:
    """Logs figures at the current optimizer step to all loggers; every rank calls it, the first one writes. See `keep_figures`."""
    keep_figures(trainer, figures)
    write_figures(trainer, figures)


def write_figures(trainer: Trainer, figures: Mapping[str, float]) -> None:
    """Passes figures of the current optimizer step to all loggers; see `log_figures`."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(figures), step=trainer.global_step)
        logger.save()


def keep_figures(trainer: Trainer, figures: Mapping[str, float]) -> None:
    """Keeps figures as the latest ones of the run and as the `callback_metrics` of the Trainer, on all ranks."""
    module = base_module(trainer.lightning_module)
    module.figures.update(figures)
    module.new_figures.update(figures)
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})


def log_picture(trainer: Trainer, name: str, image: Tensor, caption: str | None = None) -> None:
    """Logs an image, uint8 [C, H, W], to the loggers that keep images, with its caption where they show one."""
    for logger in trainer.loggers:
        if isinstance(logger, LogsImages):
            logger.log_image(key=name, images=[to_pil(image)], step=trainer.global_step, caption=[caption])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, trainer.global_step)


def log_file(trainer: Trainer, name: str, path: Path) -> None:
    """Logs a PNG file to the loggers that keep images."""
    with open_image(path) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    log_picture(trainer, name, pixels)


def log_film(trainer: Trainer, name: str, path: Path) -> None:
    """Logs a GIF file to the loggers that play films."""
    for logger in trainer.loggers:
        if isinstance(logger, LogsVideos):
            logger.log_video(key=name, videos=[str(path)], format=["gif"], step=trainer.global_step)
