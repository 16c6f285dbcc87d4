"""Converts configurations to plain values, and finds the place where each value is written."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

Path = tuple[str | int, ...]
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class Blank(Enum):
    """A missing value: `???` itself, or a reference to a `???` that is filled in later."""

    MISSING = "missing"
    LATER = "later"


@dataclass(frozen=True)
class Broken:
    """A value that cannot be computed."""

    reason: str


def plain(node: DictConfig | ListConfig) -> Any:
    """Returns the content as dicts, lists and scalars, with references resolved; a `Blank` or `Broken` where there is no value."""
    if isinstance(node, DictConfig):
        return {str(key): _value(node, key) for key in node}
    return [_value(node, index) for index in range(len(node))]


def _value(parent: DictConfig | ListConfig, key: Any) -> Any:
    try:
        if OmegaConf.is_missing(parent, key):
            return Blank.LATER if OmegaConf.is_interpolation(parent, key) else Blank.MISSING
        value = parent[key]
    except InterpolationToMissingValueError:
        return Blank.LATER
    except OmegaConfBaseException as error:
        return Broken(str(error).splitlines()[0])
    return plain(value) if OmegaConf.is_config(value) else value


def written(node: DictConfig | ListConfig) -> Any:
    """Returns the content as dicts, lists and scalars, with references as they are written: `${schedule}`."""
    return OmegaConf.to_container(node, resolve=False)


def walk(content: Any, value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields the path and value of all `plain` content; it enters mappings and lists only where the `written` content has them."""
    if isinstance(value, dict | list) and not isinstance(content, dict | list):
        return
    yield path, value
    if isinstance(content, dict) and isinstance(value, dict):
        for key in content:
            yield from walk(content[key], value[str(key)], (*path, str(key)))
    elif isinstance(content, list) and isinstance(value, list):
        for index, item in enumerate(content):
            yield from walk(item, value[index], (*path, index))


def dig(content: Any, path: Path) -> Any:
    """Returns the value at `path`. Raises LookupError if there is none."""
    for key in path:
        if not isinstance(content, dict | list):
            raise LookupError(key)
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content


def home(content: Any, path: Path) -> Path:
    """Returns the path at which the value of `path` in the `written` content is defined, following all references."""
    place: Path = ()
    for key in path:
        place = (*place, key)
        for _ in range(10):
            try:
                value = dig(content, place)
            except (LookupError, ValueError):
                break
            reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if reference is None:
                break
            place = tuple(reference[1].split("."))
    return place


def dotted(path: Path) -> str:
    """Returns the path as text, such as `trainer.plugins[0].x`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")
