"""Removes the folders that Hydra made for a run before its configuration is checked, if the run leaves them empty."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException


class RemoveEmptyFolders(Callback):
    """A callback of Hydra, in `hydra.callbacks` of each command: a command that is refused leaves no folder behind."""

    def __init__(self) -> None:
        self.new_folders: list[Path] = []

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes which of the run's folder and those above it do not exist yet."""
        with suppress(OmegaConfBaseException):  # Hydra raises it again, where it is explained
            folder = Path(str(config.hydra.run.dir)).absolute()
            self.new_folders = [each for each in (folder, *folder.parents) if not each.exists()]

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Removes the noted folders that are empty."""
        for folder in self.new_folders:
            with suppress(OSError):  # it is gone already, or not empty
                folder.rmdir()
