"""A run goes back to the weights of an earlier checkpoint, and on with its steps and data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from alphabar.errors import UserError
from alphabar.files.versions import existing_versions
from alphabar.runs.checkpoints.torch_files import load_torch_file
from alphabar.runs.folders.run_dir import LAST_CHECKPOINT
from alphabar.runs.processes.distributed import from_first
from alphabar.training.ema import weight_averages
from alphabar.training.modules.base import BaseModule


def roll_back(trainer: Trainer, module: BaseModule, is_good: Callable[[dict[str, Any]], bool]) -> int | None:
    """Sets weights, optimizer and averages to those of the newest good checkpoint; returns its step, or None if there is none.

    The number of the step, the learning rate, the data and the noise go on as if nothing had happened. All processes call it.
    """
    path = from_first(lambda: newest_good(Path(trainer.default_root_dir), is_good))
    if path is None:
        return None
    content = load_torch_file(path, str(path))
    module.load_state_dict(content["state_dict"])
    for optimizer, saved in zip(trainer.optimizers, content["optimizer_states"], strict=True):
        groups = optimizer.state_dict()["param_groups"]  # with the learning rate of the next step
        optimizer.load_state_dict({**saved, "param_groups": groups})
    if (averages := weight_averages(trainer)) is not None:
        num_updates = averages.num_updates
        averages.on_load_checkpoint(trainer, module, content)
        averages.on_fit_start(trainer, module)  # moves them to the device
        averages.num_updates = num_updates
    return content["global_step"]


def newest_good(folder: Path, is_good: Callable[[dict[str, Any]], bool]) -> Path | None:
    """Returns the newest of the last checkpoints that is whole and good."""
    for path in existing_versions(folder / LAST_CHECKPOINT).values():
        try:
            if is_good(load_torch_file(path, str(path), in_memory=False)):
                return path
        except UserError:
            continue
    return None
