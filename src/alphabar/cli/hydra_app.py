"""A command's configuration as Hydra composes it, without running anything."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from alphabar.config.interpolation import Blank, Broken, plain


@dataclass(frozen=True)
class App:
    """A script with the folder of its YAML files and the name of its main one.

    verbs: first words after which no configuration follows, with the module whose `main` takes the rest.
    """

    folder: Path
    name: str
    verbs: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def loaded(self) -> Iterator[ConfigLoader]:
        """Hydra, set up for this app."""
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(self.folder), job_name=self.name, version_base="1.3"):
            yield GlobalHydra.instance().config_loader()

    def compose(self, overrides: list[str]) -> DictConfig:
        """The configuration, with Hydra's own under `hydra`. Raises what Hydra raises."""
        with self.loaded():
            return compose(self.name, overrides, return_hydra_config=True)

    def groups(self) -> dict[str, list[str]]:
        """The choices of every group but Hydra's own."""
        files = sorted(self.folder.glob("*/**/*.yaml"))
        groups = [file.parent.relative_to(self.folder).as_posix() for file in files]
        choices: dict[str, list[str]] = {}
        for group, file in zip(groups, files, strict=True):
            if group.split("/")[0] != "hydra":
                choices.setdefault(group, []).append(file.stem)
        return choices

    def hydra_groups(self) -> dict[str, list[str]]:
        """The choices of Hydra's groups, by names such as hydra/launcher."""
        with self.loaded() as loader:
            names = [f"hydra/{name}" for name in loader.get_group_options("hydra", ObjectType.GROUP)]
            return {name: sorted(loader.get_group_options(name, ObjectType.CONFIG)) for name in names}


def resolved(app: App, overrides: list[str], part: str, package: str | None) -> str:
    """The configuration with references resolved; ??? where the value is filled in later."""
    cfg = app.compose(overrides)
    HydraConfig.instance().set_config(cfg)
    content = _legible(plain(cfg))
    if part == "hydra":
        content = {"hydra": content["hydra"]}
    elif part == "job":
        del content["hydra"]
    for key in [] if package in (None, "_global_") else str(package).split("."):
        content = content[key]
    return OmegaConf.to_yaml(OmegaConf.create(content)) if isinstance(content, dict | list) else f"{content}\n"


def _legible(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _legible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_legible(item) for item in value]
    return "???" if isinstance(value, Blank | Broken) else value
