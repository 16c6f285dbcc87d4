"""Sources of YAML files for Hydra that report an unusable file in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from alphabar.config.interpolation import unresolved_container
from alphabar.config.stored import yaml_problem
from alphabar.errors import UserError
from alphabar.files.paths import display_path


class CheckedFiles(FileConfigSource):
    """A folder of YAML files. Raises UserError, with file and line, for a file that is not a mapping in UTF-8."""

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        return _explained(lambda: super(CheckedFiles, self).load_config(config_path), file.read_bytes, display_path(file))


class CheckedPackage(ImportlibResourcesConfigSource):
    """The YAML files of a package, checked as by `CheckedFiles`."""

    def load_config(self, config_path: str) -> ConfigResult:
        name = self._normalize_file_name(config_path)
        return _explained(
            lambda: super(CheckedPackage, self).load_config(config_path),
            resources.files(self.path).joinpath(name).read_bytes,
            f"pkg://{self.path}/{name}",
        )


def _explained(load: Callable[[], ConfigResult], read: Callable[[], bytes], name: str) -> ConfigResult:
    """Returns the result of `load`. Raises UserError unless it is a mapping; a file of comments alone counts as an empty one.

    read: returns the bytes of the file. name: the file in messages.
    """
    try:
        result = load()
    except UnicodeDecodeError as error:
        line = 1 + _valid_part(read()).count(b"\n")
        raise UserError(f"{name}: line {line}: it is no text in UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError, OmegaConfBaseException) as error:
        raise UserError(f"{name}: {yaml_problem(error)}") from error
    config = result.config
    if not isinstance(config, DictConfig):
        raise UserError(f"{name}: need keys with values, such as width: 64, got a list")
    is_key_alone = len(config) == 1 and list(unresolved_container(config).values()) == [None]
    if is_key_alone and isinstance(yaml.compose(read()), yaml.ScalarNode):  # of a text OmegaConf makes a key
        raise UserError(f"{name}: need keys with values, such as width: 64, got the text {next(iter(config))}")
    return result


def _valid_part(content: bytes) -> bytes:
    """Returns the text before the first byte that is not UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return content[: error.start]
    return content


@contextmanager
def yaml_files_checked() -> Iterator[None]:
    """Makes Hydra read YAML files through the sources of this module, inside the context."""
    Plugins.instance()  # which register Hydra's own
    types = SourcesRegistry.instance().types
    before = dict(types)
    types.update({source.scheme(): source for source in (CheckedFiles, CheckedPackage)})
    try:
        yield
    finally:
        types.update(before)
