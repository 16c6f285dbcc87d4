"""The resolvers that `${...:}` in the YAML files can call."""

import os

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

from alphabar.cli.machine import has_gpu
from alphabar.runs.run_dir import run_dir

WITH_CLASSES = ("digits", "torchvision")  # data whose images always have classes
LAPTOP_PIXELS = 32 * 32 * 32  # in a batch on a CPU


def register() -> None:
    """Registers the resolvers.

    `${process_id:}` is the number of this process, `${run_dir:outputs,train,${resume}}` the folder of a command's run,
    `${preset_for:${data}}` the preset that suits the chosen data and the machine, `${features_for:${data}}` the features that the
    chosen data allow, and `${laptop_batch_size:${data.resolution}}` a number of images that suits a CPU.
    """
    OmegaConf.register_new_resolver("process_id", os.getpid, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    OmegaConf.register_new_resolver("preset_for", preset_for, replace=True)
    OmegaConf.register_new_resolver("features_for", features_for, replace=True)
    OmegaConf.register_new_resolver("laptop_batch_size", laptop_batch_size, replace=True)


def preset_for(data: str) -> str:
    """Returns the choice of the group `preset` for a choice of the group `data`: the one of the same name, or the machine's."""
    presets = GlobalHydra.instance().config_loader().get_group_options("preset", ObjectType.CONFIG)
    return data if data in presets else "one_gpu" if has_gpu() else "laptop"


def features_for(data: str) -> str:
    """Returns the choice of the group `features` for a choice of the group `data`."""
    return "classifier" if data in WITH_CLASSES else "selfsup"


def laptop_batch_size(resolution: int | None) -> int:
    """Returns the number of images of `resolution` in a batch, a power of 2 from 8 to 64; 32 where the data alone know the size."""
    wanted = LAPTOP_PIXELS // max(resolution or 32, 1) ** 2
    return next((size for size in (64, 32, 16) if size <= wanted), 8)
