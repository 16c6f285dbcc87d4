"""The resolvers that `${...:}` in the YAML files can call."""

import os

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

from alphabar.runs.run_dir import run_dir

COMMON_PRESET = "images"


def register() -> None:
    """Registers the resolvers.

    `${process_id:}` is the number of this process, `${run_dir:outputs,train,${resume}}` the folder of a command's run, and
    `${preset_for:${data}}` the preset that suits the chosen data.
    """
    OmegaConf.register_new_resolver("process_id", os.getpid, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    OmegaConf.register_new_resolver("preset_for", preset_for, replace=True)


def preset_for(data: str) -> str:
    """Returns the choice of the group `preset` for a choice of the group `data`: the one of the same name, or else `images`."""
    presets = GlobalHydra.instance().config_loader().get_group_options("preset", ObjectType.CONFIG)
    return data if data in presets else COMMON_PRESET
