"""A command's configuration as Hydra composes it, without running anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from alphabar.training.tree import Blank, Broken, plain


@dataclass(frozen=True)
class App:
    """A script with the folder of its YAML files and the name of its main one."""

    folder: Path
    name: str

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

    def groups(self, parent: str = "") -> dict[str, list[str]]:
        """The choices of every group; of Hydra's own with parent "hydra"."""
        with self.loaded() as loader:
            return dict(_groups(loader, parent))


def _groups(loader: ConfigLoader, parent: str) -> Iterator[tuple[str, list[str]]]:
    for name in loader.get_group_options(parent, ObjectType.GROUP):
        if parent == "" and name == "hydra":
            continue
        group = f"{parent}/{name}" if parent else name
        if choices := sorted(loader.get_group_options(group, ObjectType.CONFIG)):
            yield group, choices
        yield from _groups(loader, group)


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
