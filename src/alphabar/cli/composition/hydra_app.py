"""Composes a command's configuration with Hydra, without running anything."""

import os
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alphabar.cli.composition.yaml_sources import yaml_files_checked
from alphabar.config.interpolation import unresolved_container
from alphabar.errors import UserError

# A line of a YAML file, which mentions hydra, that may set `hydra.mode`.
SETS_MODE = re.compile(r"\bmode[\"']?\s*:")


def accept_any_config(cfg: DictConfig) -> None:
    """Raises nothing: every configuration is accepted."""


@dataclass(frozen=True)
class App:
    """A script, the folder and the main name of its YAML files, and the options of Hydra that change where these are looked for.

    subcommands: first words after which no configuration follows, with the `module:function` that takes the rest and returns the
        text to print.
    check: raises UserError for a configuration that the command cannot work with; it is called before torch is loaded.
    config_name, config_path, config_dir: Hydra's options of these names; None if they are not given.
    searchpath: the words of the command line that set `hydra.searchpath`.
    """

    folder: Path
    name: str
    subcommands: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[DictConfig], None] = accept_any_config
    config_name: str | None = None
    config_path: str | None = None
    config_dir: str | None = None
    searchpath: tuple[str, ...] = ()

    def with_options(self, args: Namespace) -> "App":
        """Returns the app with the options of the parsed command line.

        Raises UserError if they name a folder or a main file that does not exist.
        """
        searchpath = tuple(word for word in args.overrides if word.lstrip("+").startswith("hydra.searchpath="))
        if not (args.config_name or args.config_path or args.config_dir or searchpath):
            return self
        app = replace(
            self, config_name=args.config_name, config_path=args.config_path, config_dir=args.config_dir, searchpath=searchpath
        )
        for option, folder in (("--config-dir", app.config_dir), ("--config-path", app.main_path)):
            if folder is not None and "://" not in folder and not Path(folder).is_dir():
                raise UserError(f"{option}={folder}: there is no such folder")
        for source in app.repository.get_sources():
            if not source.available():
                kind = "package of that name with an __init__.py" if source.scheme() == "pkg" else "such folder"
                raise UserError(f"hydra.searchpath: {source.scheme()}://{source.path}: there is no {kind}")
        if not app.repository.config_exists(app.main_name):
            raise UserError(f"--config-name={app.main_name}: there is no {app.main_name}.yaml in {', '.join(app.yaml_folders())}")
        return app

    @property
    def main_name(self) -> str:
        """The name of the main YAML file, which `--config-name` may change."""
        return (self.config_name or self.name).removesuffix(".yaml")

    @property
    def main_path(self) -> str:
        """The folder, or package, of the main YAML file; `--config-path` is relative to the script."""
        path = self.config_path or str(self.folder)
        return path if "://" in path else str(self.folder.parent / path)

    @contextmanager
    def hydra(self) -> Iterator[Hydra]:
        """Provides Hydra itself, set up with this app's search path; a program of one's own gets its own Hydra back at the end."""
        version.setbase("1.3")
        search_path = create_config_search_path(self.main_path)
        if self.config_dir is not None:
            path = f"file://{os.path.abspath(self.config_dir)}"
            search_path.prepend(provider="command-line", path=path, anchor=SearchPathQuery(provider="schema"))
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with yaml_files_checked():
                yield Hydra.create_main_hydra2(task_name=self.name, config_search_path=search_path)
        finally:
            GlobalHydra.instance().hydra = before

    @cached_property
    def repository(self) -> IConfigRepository:
        """The repository of all YAML files on the search path, including `hydra.searchpath`.

        Raises UserError if importing a package on that path fails.
        """
        with self.hydra() as hydra, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hydra's, of folders that do not exist: see `with_options`
            assert isinstance(hydra.config_loader, ConfigLoaderImpl)
            try:
                return hydra.config_loader._parse_overrides_and_create_caching_repo(self.main_name, list(self.searchpath))[1]
            except (HydraException, OmegaConfBaseException, UserError):  # explained elsewhere
                raise
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise UserError(
                    f"{', '.join(self.searchpath) or 'hydra.searchpath'}: importing a package fails with {reason}"
                ) from error

    def command_line(self, overrides: Sequence[str]) -> list[str]:
        """Returns the command line of the script with the app's options and these overrides."""
        options = {"--config-name": self.config_name, "--config-path": self.config_path, "--config-dir": self.config_dir}
        given = [f"{option}={value}" for option, value in options.items() if value is not None]
        return [str(self.folder.parent / f"{self.name}.py"), *given, *self.searchpath, *overrides]

    def yaml_folders(self) -> list[str]:
        """Returns the folders in which YAML files are looked for, Hydra's own left out; of a package that has none its name."""
        sources = [source for source in self.repository.get_sources() if source.provider not in ("hydra", "schema")]
        specs = {source.path: find_spec(source.path) for source in sources if source.scheme() == "pkg"}
        places = {name: next(iter(spec.submodule_search_locations or ()), name) for name, spec in specs.items() if spec is not None}
        return [places.get(source.path, source.path) for source in sources]

    def may_set_mode(self) -> bool:
        """Returns whether a YAML file on the search path may set `hydra.mode`, as far as its text tells; True if one has none."""
        folders = [Path(path) for path in self.yaml_folders()]
        if not all(folder.is_dir() for folder in folders):  # a package in an archive
            return True
        try:
            texts = (f"{file.relative_to(folder)}\n{file.read_text()}" for folder in folders for file in folder.rglob("*.yaml"))
            return any("hydra" in text and SETS_MODE.search(text) for text in texts)
        except (OSError, UnicodeDecodeError):  # such as a link of an editor that leads nowhere
            return True

    def compose(self, overrides: list[str]) -> DictConfig:
        """Returns the configuration, with Hydra's own under `hydra`. Raises Hydra's errors unchanged."""
        with self.hydra():
            return compose(self.main_name, [*self.searchpath, *overrides], return_hydra_config=True)

    def yaml_content(self, path: str) -> Any:
        """Returns the plain content of a YAML file such as `schedule/linear`, with interpolations as they are written."""
        found = self.repository.load_config(path)
        assert found is not None, path
        return unresolved_container(found.config)  # type: ignore[arg-type]

    def main_groups(self) -> set[str]:
        """Returns the groups in the defaults list of the script's own main file."""
        entries = unresolved_container(OmegaConf.load(self.folder / f"{self.name}.yaml")).get("defaults", [])  # type: ignore[arg-type]
        return {str(group) for entry in entries if isinstance(entry, dict) for group in entry}

    def main_keys(self) -> set[str]:
        """Returns the keys at the root of the script's own main file and of the one that `--config-name` chose."""
        own = unresolved_container(OmegaConf.load(self.folder / f"{self.name}.yaml"))
        return {str(key) for key in [*own, *self.yaml_content(self.main_name)]}

    @cached_property
    def groups(self) -> Mapping[str, list[str]]:
        """The choices of every group on the search path, without Hydra's own groups."""
        return dict(sorted(self._below("")))

    def _below(self, parent: str) -> Iterator[tuple[str, list[str]]]:
        for name in self.repository.get_group_options(parent, ObjectType.GROUP):
            group = f"{parent}/{name}".removeprefix("/")
            if group.startswith(("hydra", "__")):
                continue
            if choices := self.repository.get_group_options(group, ObjectType.CONFIG):
                yield group, sorted(choices)
            yield from self._below(group)

    def choices(self) -> dict[str, list[str]]:
        """Returns the choices of every group, including those in its subfolders: `experiment` also has `smoke/NAME`."""
        words = [f"{group}/{choice}" for group, names in self.groups.items() for choice in names]
        return {group: [word.removeprefix(f"{group}/") for word in words if word.startswith(f"{group}/")] for group in self.groups}

    def hydra_groups(self) -> dict[str, list[str]]:
        """Returns the choices of Hydra's own groups, whose names are such as hydra/launcher."""
        with self.hydra() as hydra:
            loader = hydra.config_loader
            names = [f"hydra/{name}" for name in loader.get_group_options("hydra", ObjectType.GROUP)]
            return {name: sorted(loader.get_group_options(name, ObjectType.CONFIG)) for name in names}
