"""Configurations become objects: `check` compares every node with the constructor it names, `build` calls the constructors."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alphabar.errors import UserError
from alphabar.training.hints import Made
from alphabar.training.signatures import problems
from alphabar.training.targets import locate, refusal
from alphabar.training.tree import Broken, Path, dotted, home, plain, written

SPECIAL = ("_target_", "_partial_")


class ConfigError(UserError):
    """What is wrong with a configuration, one line for each problem, each with its dotted path."""


def check(cfg: DictConfig, choices: Mapping[str, Sequence[str]] | None = None) -> None:
    """Compares every `_target_` node with the signature and type hints of its class, before anything is built.

    What is written once and used in several places is reported once, where it is written.

    choices: of the groups, to be named where a value should have come from one.
    Raises ConfigError with all problems; if a `_target_` is not allowed, before anything is imported.
    """
    lines = list(dict.fromkeys(_refused(cfg))) or list(dict.fromkeys(_unfit(cfg, choices or {})))
    if lines:
        raise ConfigError("\n".join(lines))


def build(node: DictConfig, path: str = "") -> Any:
    """Makes what the node and the nodes in it name; lists and mappings become plain ones, and null members are left out.

    path: where the node stands, for messages; its place in the configuration if not given.
    Raises ConfigError for a `_target_` that is not allowed, or with a constructor's own complaint.
    """
    place = tuple((path or node._get_full_key(None)).split("."))
    root = written(node._get_root())
    lines = [f"{dotted(home(root, place + found))}: {reason}" for found, reason in _refused_in(plain(node))]
    if lines:
        raise ConfigError("\n".join(lines))
    try:
        content = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{dotted(place)}: {str(error).splitlines()[0]}") from error
    made = _make(content, place, root)
    return {key: value for key, value in made.items() if value is not None} if isinstance(made, dict) else made


def _make(content: Any, path: Path, root: Any) -> Any:
    if isinstance(content, list):
        return [_make(item, (*path, index), root) for index, item in enumerate(content)]
    if not isinstance(content, dict):
        return content
    values = {key: _make(value, (*path, key), root) for key, value in content.items() if key not in SPECIAL}
    if "_target_" not in content:
        return values
    place = dotted(home(root, path))
    try:
        cls = locate(content["_target_"])
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error
    make = partial(construct, cls, place)
    return partial(make, **values) if content.get("_partial_") else make(**values)


def construct(cls: type, place: str, /, *args: Any, **kwargs: Any) -> Any:
    """cls(*args, **kwargs), with the place in the configuration before its complaint. Raises ConfigError."""
    try:
        return cls(*args, **kwargs)
    except ConfigError:
        raise
    except Exception as error:
        if not is_complaint(error):
            raise
        raise ConfigError(f"{place}: {first_line(error)}") from error


def is_complaint(error: BaseException) -> bool:
    """Whether this is how constructors, Lightning's too, say that their arguments are no good."""
    return isinstance(error, ValueError | TypeError) or type(error).__name__ == "MisconfigurationException"


def first_line(error: BaseException) -> str:
    """The message up to its first line break, or the error's name if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _nodes(raw: Any, value: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every node with a `_target_` where it is written down: references are not followed."""
    if isinstance(raw, dict) and isinstance(value, dict):
        if "_target_" in value:
            yield path, value
        for key in raw:
            yield from _nodes(raw[key], value[str(key)], (*path, str(key)))
    elif isinstance(raw, list) and isinstance(value, list):
        for index, item in enumerate(raw):
            yield from _nodes(item, value[index], (*path, index))


def _refused(cfg: Container) -> Iterator[str]:
    for path, node in _nodes(written(cfg), plain(cfg)):
        if reason := refusal(node["_target_"]):
            yield f"{dotted(path)}: {reason}"


def _refused_in(value: Any) -> Iterator[tuple[Path, str]]:
    for path, node in _nodes(value, value):
        if reason := refusal(node["_target_"]):
            yield path, reason


def _unfit(cfg: DictConfig, choices: Mapping[str, Sequence[str]]) -> Iterator[str]:
    raw, content = written(cfg), plain(cfg)
    for path, broken in _broken(raw, content):
        yield f"{dotted(path)}: {broken.reason}"
    for path, node in _nodes(raw, content):
        try:
            cls = locate(node["_target_"])
        except ValueError as error:
            yield f"{dotted(path)}: {error}"
            continue
        if odd := [key for key in node if key.startswith("_") and key.endswith("_") and key not in SPECIAL]:
            yield f"{dotted(path)}: {', '.join(odd)} is not supported; there are {' and '.join(SPECIAL)}"
            continue
        arguments = {key: _foresee(value) for key, value in node.items() if key not in SPECIAL}
        for name, text in problems(cls, arguments, node.get("_partial_") is True):
            place = path if name is None else home(raw, (*path, name))
            yield f"{dotted(place)}: {text}{_advice(place, name, text, choices)}"


def _advice(place: Path, name: str | None, text: str, choices: Mapping[str, Sequence[str]]) -> str:
    if text == "missing":
        return f", give {dotted(place)}=..."
    group = next((str(word) for word in (place[-1:] + (name,)) if word in choices), None)
    if name is None or group is None:
        return ""
    return f" ({group}=... takes: {', '.join(choices[group])})"


def _broken(raw: Any, value: Any, path: Path = ()) -> Iterator[tuple[Path, Broken]]:
    if isinstance(value, Broken):
        yield path, value
    elif isinstance(raw, dict) and isinstance(value, dict):
        for key in raw:
            yield from _broken(raw[key], value[str(key)], (*path, str(key)))
    elif isinstance(raw, list) and isinstance(value, list):
        for index, item in enumerate(raw):
            yield from _broken(item, value[index], (*path, index))


def _foresee(value: Any) -> Any:
    """The value with every node that has a `_target_` replaced by what it will be."""
    if isinstance(value, list):
        return [_foresee(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "_target_" not in value:
        return {key: _foresee(item) for key, item in value.items()}
    try:
        return Made(locate(value["_target_"]), value.get("_partial_") is True)
    except ValueError:
        return Made(None, False)
