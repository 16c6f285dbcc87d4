"""The resolvers that `${...:}` in the YAML files can call."""

import os

from omegaconf import OmegaConf

from alphabar.cli.composition.preset import features_for, laptop_batch_size, preset_for
from alphabar.runs.folders.run_dir import run_dir


def register() -> None:
    """Registers the resolvers.

    `${process_id:}` is the number of this process, `${run_dir:outputs,train,${resume}}` the folder of a command's run,
    `${preset_for:${data}}` the preset that suits the chosen data and the machine, `${features_for:${data}}` the features that the
    chosen data allow, and `${laptop_batch_size:${data.resolution}}` a number of images that suits a CPU.
    """
    resolvers = {
        "process_id": os.getpid,
        "run_dir": run_dir,
        "preset_for": preset_for,
        "features_for": features_for,
        "laptop_batch_size": laptop_batch_size,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
