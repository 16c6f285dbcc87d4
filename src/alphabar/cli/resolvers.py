"""What `${...:}` in the YAML files can call."""

import os

from omegaconf import OmegaConf

from alphabar.runs.run_dir import run_dir


def register() -> None:
    """`${process_id:}` is this process's number; `${run_dir:train,${resume}}` the folder of a command's run."""
    OmegaConf.register_new_resolver("process_id", os.getpid, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
