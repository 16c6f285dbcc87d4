"""Converts configurations to plain containers, and finds the path at which each value is defined."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

Path = tuple[str | int, ...]
INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")


class MissingValue(Enum):
    """A missing value: `???` itself (MANDATORY), or an interpolation of a `???` that is filled in later (DEFERRED)."""

    MANDATORY = "mandatory"
    DEFERRED = "deferred"


@dataclass(frozen=True)
class Unresolvable:
    """A value whose interpolation cannot be resolved."""

    reason: str


def resolved_container(node: DictConfig | ListConfig) -> Any:
    """Returns the content as dicts, lists and scalars, with interpolations resolved.

    A `MissingValue` or `Unresolvable` stands where there is no value.
    """
    if isinstance(node, DictConfig):
        return {str(key): _value(node, key) for key in node}
    return [_value(node, index) for index in range(len(node))]


def _value(parent: DictConfig | ListConfig, key: Any) -> Any:
    try:
        if OmegaConf.is_missing(parent, key):
            return MissingValue.DEFERRED if OmegaConf.is_interpolation(parent, key) else MissingValue.MANDATORY
        value = parent[key]
    except InterpolationToMissingValueError:
        return MissingValue.DEFERRED
    except OmegaConfBaseException as error:
        return Unresolvable(str(error).splitlines()[0])
    return resolved_container(value) if OmegaConf.is_config(value) else value


def unresolved_container(node: DictConfig | ListConfig) -> Any:
    """Returns the content as dicts, lists and scalars, with interpolations as they are written: `${schedule}`."""
    return OmegaConf.to_container(node, resolve=False)


def walk(unresolved: Any, value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields the path and value of every node of a resolved container.

    It enters mappings and lists only where the unresolved container has them too, so not behind interpolations.
    """
    if isinstance(value, dict | list) and not isinstance(unresolved, dict | list):
        return
    yield path, value
    if isinstance(unresolved, dict) and isinstance(value, dict):
        for key in unresolved:
            yield from walk(unresolved[key], value[key if key in value else str(key)], (*path, str(key)))
    elif isinstance(unresolved, list) and isinstance(value, list):
        for index, item in enumerate(unresolved):
            yield from walk(item, value[index], (*path, index))


def value_at(content: Any, path: Path) -> Any:
    """Returns the value at `path`. Raises LookupError if there is none."""
    for key in path:
        if not isinstance(content, dict | list):
            raise LookupError(key)
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content


def definition_path(unresolved: Any, path: Path) -> Path:
    """Returns the path at which the value of `path` in an unresolved container is defined, following all interpolations."""
    place: Path = ()
    for key in path:
        place = (*place, key)
        for _ in range(10):
            try:
                value = value_at(unresolved, place)
            except (LookupError, ValueError):
                break
            reference = INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
            if reference is None:
                break
            place = tuple(reference[1].split("."))
    return place


def dotted_path(path: Path) -> str:
    """Returns the path as text, such as `trainer.plugins[0].x`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")
