"""Makes objects of configurations: `check` compares every node with its constructor, `build` calls the constructors."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alphabar.config.allowed_targets import locate, refusal
from alphabar.config.interpolation import Broken, Path, dotted, home, plain, walk, written
from alphabar.config.signatures import MISSING, problems
from alphabar.config.type_hints import Made
from alphabar.errors import UserError

SPECIAL = ("_target_", "_partial_")
Choices = Mapping[str, Sequence[str]]


class ConfigError(UserError):
    """An invalid configuration; the message has one line for each problem, with its dotted path."""


def check(cfg: DictConfig, choices: Choices | None = None) -> None:
    """Compares every `_target_` node with the signature and type hints of its class, before anything is built.

    A value that is written once and used in several places is reported once, where it is written.

    choices: the choices of each group, which are listed where a value should have come from a group.
    Raises ConfigError with all problems; if a `_target_` is not allowed, before anything is imported.
    """
    raw, content = written(cfg), plain(cfg)
    values = list(walk(raw, content))
    lines = [at(path, value.reason) for path, value in values if isinstance(value, Broken)]
    nodes = [(path, value) for path, value in values if isinstance(value, dict) and "_target_" in value]
    refused = [at(path, reason) for path, node in nodes if (reason := refusal(node["_target_"]))]
    if not refused:
        for path, node in nodes:
            lines += _compare(path, node, raw, choices or {})
    if refused or lines:
        raise ConfigError("\n".join(dict.fromkeys(refused + lines)))


def _compare(path: Path, node: dict[str, Any], raw: Any, choices: Choices) -> Iterator[str]:
    """Yields a line for each problem of one node."""
    try:
        cls = locate(node["_target_"])
    except ValueError as error:
        yield at(path, str(error))
        return
    if odd := [key for key in node if key.startswith("_") and key.endswith("_") and key not in SPECIAL]:
        yield at(path, f"{', '.join(odd)} is not supported, only {' and '.join(SPECIAL)}")
        return
    arguments = {key: _foresee(value) for key, value in node.items() if key not in SPECIAL}
    for name, text in problems(cls, arguments, node.get("_partial_") is True):
        place = home(raw, path if name is None else (*path, name))
        yield at(place, text + _advice(place, name, text, choices))


def at(path: Path, text: str) -> str:
    """Returns the text with the dotted path before it."""
    return f"{dotted(path)}: {text}" if path else text


def _advice(place: Path, name: str | None, text: str, choices: Choices) -> str:
    if text == MISSING:
        return f", give {dotted(place)}=..."
    group = next((word for word in (str(place[-1]), name) if word in choices), None) if place and name else None
    return f" ({group}=... takes: {', '.join(choices[group])})" if group else ""


def _foresee(value: Any) -> Any:
    """Returns the value with every node that has a `_target_` replaced by the `Made` that it will become."""
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


def build(node: DictConfig, path: str = "") -> Any:
    """Returns the object that the node names, built with the objects of the nodes in it. Constructors get plain lists and mappings.

    It calls constructors itself, without `hydra.utils.instantiate`, so that the class that is built is the one that was checked,
    and so that an error names its place. Null members of a mapping of objects are left out: `callbacks.fid=null`.

    path: the place of the node in messages; by default its place in the configuration that it is part of.
    Raises ConfigError for a `_target_` that is not allowed, before anything is imported, or with the message of a constructor.
    """
    place: Path = tuple(key for key in (path or node._get_full_key(None)).split(".") if key)
    root = written(node._get_root())  # type: ignore[arg-type]
    try:
        content = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(at(place, first_line(error))) from error
    for inner, value in walk(content, content):
        if isinstance(value, dict) and "_target_" in value and (reason := refusal(value["_target_"])):
            raise ConfigError(at(home(root, place + inner), reason))
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
    place = home(root, path)
    try:
        cls = locate(content["_target_"])
    except ValueError as error:
        raise ConfigError(at(place, str(error))) from error
    make = partial(construct, cls, place, root, **values)
    return make if content.get("_partial_") is True else make()


def construct(cls: type, place: Path, root: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Returns cls(*args, **kwargs). Raises ConfigError, with the place in the configuration, if the arguments are invalid.

    A message that begins with an argument, `project=a/b: ...`, gets the key of the argument: `logger.wandb.project=a/b: ...`.
    root: the content of the configuration, as it is written.
    """
    try:
        return cls(*args, **kwargs)
    except ConfigError:
        raise
    except Exception as error:
        if not is_complaint(error):
            raise
        line = first_line(error)
        name = line.partition("=")[0]
        if name in kwargs:
            raise ConfigError(dotted(home(root, (*place, name))) + line.removeprefix(name)) from error
        raise ConfigError(at(place, line)) from error


def is_complaint(error: BaseException) -> bool:
    """Returns whether the error is of a kind by which constructors, including Lightning's, reject their arguments."""
    return isinstance(error, ValueError | TypeError) or type(error).__name__ == "MisconfigurationException"


def first_line(error: BaseException) -> str:
    """Returns the first line of the message that is not empty, or the name of the error's class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
