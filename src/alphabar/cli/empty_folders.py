"""Removes the folders that were made for a run or a sweep before its configuration is checked, if it leaves them empty."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from alphabar.runs.folders.run_dir import OWNER

OF_A_REFUSED_SWEEP = (OWNER, "multirun.yaml")  # the files in the folder of a sweep that has no jobs
_new_sweep_folders: list[Path] = []  # the folder of this process's sweep and those above it that did not exist before


class RemoveEmptyFolders(Callback):
    """A callback of Hydra, in `hydra.callbacks` of each command: a command that is refused leaves no folder behind."""

    def __init__(self) -> None:
        self.new_folders: list[Path] = []

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes which of the run's folder and those above it do not exist yet."""
        with suppress(OmegaConfBaseException):  # Hydra raises it again, where it is explained
            folder = Path(str(config.hydra.run.dir)).absolute()
            self.new_folders = missing_folders(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the same of the sweep's folder; see `remove_refused_sweep`."""
        with suppress(OmegaConfBaseException):
            _new_sweep_folders[:] = missing_folders(Path(str(config.hydra.sweep.dir)).absolute())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Removes the noted folders that are empty."""
        remove_empty(self.new_folders)


def missing_folders(folder: Path) -> list[Path]:
    """Returns which of the folder and those above it do not exist, the innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are empty."""
    for folder in folders:
        with suppress(OSError):  # it is gone already, or not empty
            folder.rmdir()


def remove_refused_sweep(folder: Path) -> None:
    """Removes the folder of a sweep that was refused before it had jobs, and those above it, as far as this command made them."""
    if folder in _new_sweep_folders:
        for name in OF_A_REFUSED_SWEEP:
            (folder / name).unlink(missing_ok=True)
        remove_empty(_new_sweep_folders)
