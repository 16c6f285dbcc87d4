"""Instantiates configurations: `check` compares every node with its constructor, `build` calls the constructors."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alphabar.config.allowed_targets import is_own, locate, reason_for_refusal
from alphabar.config.foreign_code import failing_part, foreign_error
from alphabar.config.incomplete import dotted_name
from alphabar.config.interpolation import (
    MissingValue,
    Path,
    Unresolvable,
    definition_path,
    dotted_path,
    resolved_container,
    unresolved_container,
    walk,
)
from alphabar.config.roles import check_roles, misplaced, wrong_role
from alphabar.config.signatures import MISSING, argument_problems
from alphabar.config.type_hints import TargetInstance, describe_value
from alphabar.errors import UserError

FORGOTTEN = "{}.__init__ has to call super().__init__() first"
SPECIAL_KEYS = ("_target_", "_partial_")
Choices = Mapping[str, Sequence[str]]


class ConfigError(UserError):
    """An invalid configuration; the message has one line for each problem, with its dotted path."""


def check(cfg: DictConfig, choices: Choices | None = None, is_whole: bool = True) -> None:
    """Compares every `_target_` node with the signature and type hints of its class, before anything is built.

    A value that several nodes interpolate is reported once, at the path at which it is defined.

    choices: the choices of each group, which are listed where a value should have come from a group. is_whole: whether it is the
    configuration of a command, in which objects have to stand at the keys of `ROLES`, and not a part of one.
    Raises ConfigError with all problems; if a `_target_` is not allowed, before anything is imported.
    """
    raw, content = unresolved_container(cfg), resolved_container(cfg)
    values = list(walk(raw, content))
    lines = [with_path(path, value.reason) for path, value in values if isinstance(value, Unresolvable)]
    nodes = [(path, value) for path, value in values if isinstance(value, dict) and "_target_" in value]
    unnamed = [path for path, node in nodes if node["_target_"] is MissingValue.MANDATORY]
    lines += [with_path((*path, "_target_"), f"{MISSING}, give {dotted_path((*path, '_target_'))}=...") for path in unnamed]
    nodes = [(path, node) for path, node in nodes if path not in unnamed]
    refused = [with_path(path, reason) for path, node in nodes if (reason := reason_for_refusal(node["_target_"]))]
    if not refused:
        lines += [with_path(path, reason) for path, reason in (misplaced(content) if is_whole else ())]
        for path, node in nodes:
            lines += _check_node(path, node, raw, choices or {})
    if refused or lines:
        raise ConfigError("\n".join(dict.fromkeys(refused + lines)))


def check_file(config: dict[str, Any], name: str) -> None:
    """Raises UserError if a resolved configuration from a file names a class that is not allowed, or gives it wrong arguments.

    Nothing is built; see `check_roles`. name: the file in messages.
    """
    check_roles(config, name)
    try:
        check(OmegaConf.create(config), is_whole=False)
    except ConfigError as error:
        raise UserError(f"{name}: {in_one_line(str(error).splitlines())}") from error


def in_one_line(lines: Sequence[str]) -> str:
    """Returns the first line, with the number of those that follow."""
    return lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")


def _check_node(path: Path, node: dict[str, Any], raw: Any, choices: Choices) -> Iterator[str]:
    """Yields a line for each problem of one node."""
    try:
        cls = locate(node["_target_"])
    except ValueError as error:
        yield with_path(path, str(error))
        return
    is_partial = node.get("_partial_") is True
    if reason := wrong_role(cls, is_partial, path):
        yield with_path(definition_path(raw, path), reason)
        return
    if odd := [key for key in node if key.startswith("_") and key.endswith("_") and key not in SPECIAL_KEYS]:
        yield with_path(path, f"{', '.join(odd)} is not supported, only {' and '.join(SPECIAL_KEYS)}")
        return
    arguments = {key: _with_target_instances(value) for key, value in node.items() if key not in SPECIAL_KEYS}
    for name, text in argument_problems(cls, arguments, is_partial):
        place = definition_path(raw, path if name is None else (*path, name))
        yield with_path(place, text + _override_hint(place, name, text, choices))


def with_path(path: Path, text: str) -> str:
    """Returns the text after the dotted path, if there is one."""
    return f"{dotted_path(path)}: {text}" if path else text


def _override_hint(place: Path, name: str | None, text: str, choices: Choices) -> str:
    if text == MISSING:
        return f", give {dotted_path(place)}=..."
    group = next((word for word in (str(place[-1]), name) if word in choices), None) if place and name else None
    return f" ({group}=... takes: {', '.join(choices[group])})" if group else ""


def _with_target_instances(value: Any) -> Any:
    """Returns the value with every node that has a `_target_` replaced by the `TargetInstance` that it will become."""
    if isinstance(value, list):
        return [_with_target_instances(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "_target_" not in value:
        return {key: _with_target_instances(item) for key, item in value.items()}
    try:
        return TargetInstance(locate(value["_target_"]), value.get("_partial_") is True)
    except ValueError:
        return TargetInstance(None, False)


def build(node: DictConfig, path: str = "") -> Any:
    """Returns the object that the node names, built with the objects of the nodes in it. Constructors get plain lists and mappings.

    Constructors are called without `hydra.utils.instantiate`, so that the class that is built is the one that was checked, and so
    that an error names its path. Null members of a mapping of objects are left out: `callbacks.fid=null`.

    path: the dotted path of the node in messages; by default its path in the configuration that it is part of.
    Raises ConfigError for a `_target_` that is not allowed, before anything is imported, with the message of a constructor, or if
    there is no node.
    """
    if not isinstance(node, DictConfig):
        raise ConfigError(with_path(tuple(path.split(".")), f"need an object, a node with _target_, got {describe_value(node)}"))
    place: Path = tuple(key for key in (path or node._get_full_key(None)).split(".") if key)
    root = unresolved_container(node._get_root())  # type: ignore[arg-type]
    try:
        content = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(with_path(place, first_line(error))) from error
    for inner, value in walk(content, content):
        if isinstance(value, dict) and "_target_" in value and (reason := reason_for_refusal(value["_target_"])):
            raise ConfigError(with_path(definition_path(root, place + inner), reason))
    made = _build_content(content, place, root)
    return {key: value for key, value in made.items() if value is not None} if isinstance(made, dict) else made


def _build_content(content: Any, path: Path, root: Any) -> Any:
    if isinstance(content, list):
        return [_build_content(item, (*path, index), root) for index, item in enumerate(content)]
    if not isinstance(content, dict):
        return content
    values = {key: _build_content(value, (*path, key), root) for key, value in content.items() if key not in SPECIAL_KEYS}
    if "_target_" not in content:
        return values
    place = definition_path(root, path)
    try:
        cls = locate(content["_target_"])
    except ValueError as error:
        raise ConfigError(with_path(place, str(error))) from error
    make = partial(construct, cls, place, root, **values)
    return make if content.get("_partial_") is True else make()


def construct(cls: type, place: Path, root: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Returns cls(*args, **kwargs). Raises ConfigError, with the place in the configuration, if the arguments are invalid, and for
    any error of somebody else's constructor.

    A message that begins with an argument, `project=a/b: ...` or `schedule: ...`, gets the key of the argument:
    `logger.wandb.project=a/b: ...`.
    root: the unresolved container of the whole configuration.
    """
    try:
        made = cls(*args, **kwargs)
    except ConfigError:
        raise
    except Exception as error:
        if is_module(cls) and "before Module.__init__() call" in str(error):
            raise ConfigError(with_path(place, FORGOTTEN.format(dotted_name(cls)))) from error
        # A ValueError of its own constructor says itself what to change.
        if (is_own(dotted_name(cls)) or not isinstance(error, ValueError)) and (line := foreign_error(error)) is not None:
            part = failing_part(error, kwargs)
            raise ConfigError(with_path(definition_path(root, (*place, *filter(None, [part]))), line)) from error
        if not is_argument_error(error):
            raise
        line = first_line(error)
        name = re.split("[=:]", line, maxsplit=1)[0]
        if name in kwargs:
            raise ConfigError(dotted_path(definition_path(root, (*place, name))) + line.removeprefix(name)) from error
        raise ConfigError(with_path(place, line)) from error
    if is_module(cls) and "_parameters" not in vars(made):
        raise ConfigError(with_path(place, FORGOTTEN.format(dotted_name(cls))))
    return made


def is_module(cls: type) -> bool:
    """Returns whether a class derives from `torch.nn.Module`, without importing torch."""
    return any(base.__module__ == "torch.nn.modules.module" for base in cls.__mro__)


def is_argument_error(error: BaseException) -> bool:
    """Returns whether the error is of a kind by which constructors, including Lightning's, reject their arguments."""
    return isinstance(error, ValueError | TypeError) or type(error).__name__ == "MisconfigurationException"


def first_line(error: BaseException) -> str:
    """Returns the first line of the message that is not empty, or the name of the error's class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
