"""Configurations from files: checkpoints, run folders and sweeps, which somebody else may have written.

They are plain values of a bounded size, without interpolations; `roles` has the classes that they may name.
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from alphabar.config.bounds import MOST
from alphabar.config.interpolation import Path as KeyPath
from alphabar.config.interpolation import dotted_path
from alphabar.errors import UserError

# A run's own configuration has about 200 values, is 6 deep and has 10,000 characters.
MAX_DEPTH, MAX_VALUES, MAX_CHARACTERS = 32, 10_000, 2**20
MAX_EVENTS = 3 * MAX_VALUES  # of a parser: keys, values, and ends of mappings
MAX_NUMBER = 2**63
SHOWN = 100  # the most characters of a key or of a value in a message


class UnreadableConfig(UserError):
    """An error about a configuration file that is truncated, damaged or of another kind, rather than of refused content."""


def read_stored_yaml(path: Path, name: str) -> dict[str, Any]:
    """Returns the configuration in a YAML file as plain dicts, lists and scalars.

    name: the file in messages. Raises UserError in one line if it cannot be read, or is not such a configuration.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableConfig(
            f"{name}: cannot be read ({getattr(error, 'strerror', None) or 'it is no text in UTF-8'})"
        ) from error
    return parse_stored_yaml(text, name)


def parse_stored_yaml(text: str, name: str) -> dict[str, Any]:
    """Returns the configuration in a text; see `read_stored_yaml`."""
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{name}: longer than {MAX_CHARACTERS:,} characters, so not the configuration of a run")
    try:
        _bound_events(text, name)
        content = yaml.load(text, Loader=get_yaml_loader())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UnreadableConfig(f"{name}: {yaml_problem(error)}") from error
    return plain_config(content, name)


def yaml_problem(error: Exception) -> str:
    """Returns why a file is no YAML of a configuration, with the line of the file, if the error of the parser tells it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: not YAML ({error.problem or error.context})"[: 2 * SHOWN]
    return f"not YAML ({' '.join(str(error).split())[:SHOWN]})"


def _bound_events(text: str, name: str) -> None:
    """Raises UserError for YAML that is nested too deeply to be read, has too many values, or repeats parts of itself."""
    depth = 0
    for num, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
        if num > MAX_EVENTS:
            raise UserError(f"{name}: more than {MAX_VALUES:,} values, so not the configuration of a run")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UserError(f"{name}: line {event.start_mark.line + 1}: nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{name}: line {event.start_mark.line + 1}: *{event.anchor} repeats another part; no run writes that")


def plain_config(content: Any, name: str) -> dict[str, Any]:
    """Returns a copy of a stored configuration that consists of dicts, lists and scalars alone.

    name: the file in messages. Raises UserError, with the key, for anything else, for one that is too deep or too large (a part
    that occurs several times counts as often), for a number beyond all reason, and for an interpolation: a
    configuration is resolved when it is written, and `${oc.env:NAME}` would read a secret of whoever opens it.
    """
    if not isinstance(content, dict):
        raise UnreadableConfig(f"{name}: its configuration must be a mapping, got {type(content).__name__}")
    return _Copy(name).of(content, ())


class _Copy:
    """The copy that is being made, with the number of its values and of its characters so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_values = self.num_characters = 0

    def of(self, value: Any, path: KeyPath) -> Any:
        """Returns the copy of the value at a path."""
        self.num_values += 1
        self.num_characters += len(value) if isinstance(value, str) else 0
        if len(path) > MAX_DEPTH:
            raise self._refusal(path, f"nested more than {MAX_DEPTH} deep")
        if self.num_values > MAX_VALUES or self.num_characters > MAX_CHARACTERS:
            raise self._refusal(path, f"more than {MAX_VALUES:,} values or {MAX_CHARACTERS:,} characters in one configuration")
        if isinstance(value, dict):
            return {self._key(key, path): self.of(item, (*path, key)) for key, item in dict.items(value)}
        if isinstance(value, list | tuple):
            return [self.of(item, (*path, index)) for index, item in enumerate(value)]
        self._check_scalar(value, path)
        return value

    def _key(self, key: Any, path: KeyPath) -> str | int:
        if type(key) is int or (type(key) is str and key.isprintable() and "${" not in key):
            self.num_characters += len(str(key))
            return key
        raise self._refusal(path, f"a key must be a printable text without ${{...}}, got {repr(key)[:SHOWN]}")

    def _check_scalar(self, value: Any, path: KeyPath) -> None:
        if type(value) not in (str, int, float, bool, type(None)):
            raise self._refusal(path, f"expected a plain value, got {type(value).__name__}")
        if isinstance(value, str) and "${" in value:
            raise self._refusal(path, f"{value[:SHOWN]} is refused: a configuration out of a file is never resolved")
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise self._refusal(path, f"expected a number up to {MAX_NUMBER}, got one of {value.bit_length():,} bits")
        key = next((part for part in reversed(path) if isinstance(part, str)), None)  # of a list, too, as of resolution: [48, 64]
        most = MOST.get(key) if key is not None else None
        if most is not None and isinstance(value, int | float) and value > most:
            raise self._refusal(path, f"expected a number up to {most:,}, got {value}")

    def _refusal(self, path: KeyPath, reason: str) -> UserError:
        place = dotted_path(path)
        return UserError(": ".join(part for part in (self.name, place[:SHOWN], reason) if part))
