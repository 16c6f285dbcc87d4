"""The classes that a configuration may name at each of its keys, their roles.

A configuration that the user composes may name any class of the right role. One that is read from a file may name only classes of
alphabar, and others that the user trusts or has used before.
"""

import pkgutil
import re
import sys
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

from alphabar.config.allowed_targets import OF_LIGHTNING, SHOWN, WATCHING, allow, locate
from alphabar.config.former_names import current_target
from alphabar.config.interpolation import MissingValue, Path, Unresolvable, dotted_path, value_at, walk
from alphabar.config.signatures import type_hints
from alphabar.config.trust import is_known, is_trusted, node_hash, remember
from alphabar.config.type_hints import classes_in, describe_value
from alphabar.errors import UserError

# The modules that define the classes which any file may name; torch.nn has others that do more than compute.
MODULES_OF_FILES = ("alphabar.", "torch.nn.modules.", "torch.optim.")
NAME_OF_FILES = re.compile(r"(alphabar|torch\.nn|torch\.optim)(\.\w+)+")  # by this alone nothing is imported from elsewhere
DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
ANYTHING = object()  # the type hint of the arguments of a class of others: any class may stand there
TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
LOGGERS = "logger.*"
# The class that may stand at each key that a command builds (*: at any key); arguments have the class of their type hint.
ROLES = {
    "callbacks.*": "lightning.pytorch.callbacks.callback.Callback",
    "codec": "alphabar.models.codecs.Codec",
    "conditioner": "alphabar.models.conditioners.Conditioner",
    "data": "lightning.pytorch.core.datamodule.LightningDataModule",
    "guidance": "alphabar.sampling.guidance_config.Guide",
    LOGGERS: "lightning.pytorch.loggers.logger.Logger",
    "module": "alphabar.training.modules.base.BaseModule",
    "module.codec": "alphabar.models.codecs.Codec",
    "module.conditioner": "alphabar.models.conditioners.Conditioner",
    "module.denoiser": "alphabar.diffusion.denoiser.NetworkDenoiser",
    "sampler": "alphabar.diffusion.samplers.Sampler",
    "statistics.*": "alphabar.metrics.statistics.Statistic",
    "trainer": TRAINER,
}
OPTIONAL = ("data", "guidance")  # keys that may be null
RUN = ("metric", "task")  # the keys of the object that a command runs, of any class


def check_roles(config: dict[str, Any], name: str, approved: Collection[Path] = (), before: dict[str, Any] | None = None) -> None:
    """Raises UserError if a resolved configuration from a file names a class that is not allowed at its key.

    Nothing is built, and only modules that are ours, trusted or known are imported. Accepted classes are allowed from now on.
    name: the file in messages. approved: the paths of nodes whose class the user has named. before: the configuration as it was
    in the file, if the user has changed arguments since.
    """
    if "_target_" in config:
        raise UserError(f"{name}: _target_ is refused: a configuration as a whole is no object")
    check = _FileCheck(approved, config if before is None else before)
    for path, reason in check.refusals(config, (), None):
        raise UserError(f"{name}: {dotted_path(path)[:SHOWN]}: {reason}")
    remember(check.trusted.items())


def remember_classes(config: dict[str, Any]) -> None:
    """Records, for later files, the objects of the user's own run whose classes a file may not name by itself.

    config: the resolved configuration of the run.
    """
    nodes = (node for _, node in walk(config, config) if isinstance(node, dict) and isinstance(node.get("_target_"), str))
    remember((node_hash(node), node["_target_"]) for node in nodes if not _may_stand_in_files(node["_target_"]))


class _FileCheck:
    """A check of a configuration from a file; see `check_roles`. trusted: classes that only `trust` allows, by node hash."""

    def __init__(self, approved: Collection[Path], before: dict[str, Any]) -> None:
        self.approved = approved
        self.before = before
        self.trusted: dict[str, str] = {}

    def refusals(self, value: Any, path: Path, hint: Any) -> Iterator[tuple[Path, str]]:
        """Yields the path of every node whose class is refused, with the reason. hint: the type that is allowed here."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.refusals(item, (*path, index), hint)
            return
        if not isinstance(value, dict):
            return
        hints: dict[str, Any] = {}
        others = hint
        if "_target_" in value:
            try:
                cls, is_ours = self._class(value, path)
            except ValueError as error:
                yield path, str(error)
                return
            wrong = _wrong_role(cls, path, hint) or (_leads_elsewhere(cls, value) if is_ours else None)
            if wrong is not None and path not in self.approved:
                yield path, wrong
            hints, others = (type_hints(cls), None) if is_ours else ({}, ANYTHING)
        for key, item in value.items():
            yield from self.refusals(item, (*path, key), _role((*path, key)) or hints.get(str(key), others))

    def _class(self, node: dict[str, Any], path: Path) -> tuple[type, bool]:
        """Returns the class of a node, and whether any file may name it. Raises ValueError if it is refused."""
        target = node["_target_"]
        if isinstance(target, str) and _may_stand_in_files(target):
            return locate(current_target(target)), True
        is_named = isinstance(target, str) and (path in self.approved or self._is_known(node, path))
        if not isinstance(target, str) or not (is_named or is_trusted(target)):
            raise ValueError(_refusal(target))
        allow(target)
        cls = locate(target)
        if not is_named:
            _must_be_defined_in_its_package(cls, target)
        if is_trusted(target):
            self.trusted[node_hash(node)] = target
        return cls, False

    def _is_known(self, node: dict[str, Any], path: Path) -> bool:
        """Returns whether the user has used the object of a node before, with its present or its earlier arguments."""
        try:
            before = value_at(self.before, path)
        except (LookupError, ValueError, TypeError):
            before = None
        if not isinstance(before, dict) or before.get("_target_") != node["_target_"]:
            before = node
        return is_known(node_hash(node)) or is_known(node_hash(before))


def _must_be_defined_in_its_package(cls: type, target: str) -> None:
    """Raises ValueError for a class that a trusted module only imports, such as `subprocess.Popen`, unless any file may name it."""
    if not f"{cls.__module__}.".startswith((f"{target.partition('.')[0]}.", *MODULES_OF_FILES)):
        raise ValueError(f"_target_ {target[:SHOWN]} is refused: it is {cls.__name__} of {cls.__module__}, which is not trusted")


def _may_stand_in_files(target: str) -> bool:
    """Returns whether any file may name the class. Raises ValueError for a class of ours that does not exist."""
    if target in OF_LIGHTNING:
        return True
    if not NAME_OF_FILES.fullmatch(target) or not target.startswith(("alphabar.", "torch.nn.", "torch.optim.")):
        return False
    return f"{locate(current_target(target)).__module__}.".startswith(MODULES_OF_FILES)


def _refusal(target: object) -> str:
    """Returns the message for a class that a file may not name, with the override that allows it."""
    text = f"_target_ {str(target)[:SHOWN]} is refused: a file may name only classes of alphabar, torch.nn and torch.optim, and "
    text += ", ".join(WATCHING)
    package = str(target).partition(".")[0]
    if (
        not isinstance(target, str)
        or not DOTTED_NAME.fullmatch(target)
        or package in (*sys.stdlib_module_names, "torch", "alphabar")
    ):
        return text
    return f"{text}; if it is yours, or you trust whoever wrote it to run code here: trust=[{package[:SHOWN]}]"


def misplaced(config: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yields the paths of a composed configuration at which a required object is missing, with the reason."""
    mappings = ", ".join(key.removesuffix(".*") for key in ROLES if key.endswith(".*"))
    for key in (*ROLES, *RUN):
        group, star, _ = key.partition(".*")
        if group not in config or isinstance(config[group], MissingValue | Unresolvable):
            continue
        value = config[group]
        if star and (not isinstance(value, dict) or "_target_" in value):
            yield (group,), f"need a mapping of objects by their names, got {describe_value(value)[:SHOWN]}"
        elif not star and not (isinstance(value, dict) and "_target_" in value) and (value is not None or group not in OPTIONAL):
            members = list(value.values()) if isinstance(value, dict) else []
            is_mapping = bool(members) and all(isinstance(each, dict) and "_target_" in each for each in members)
            hint = f"; such objects by their names go into one of {mappings}" if is_mapping else ""
            yield (group,), f"need an object, a node with _target_, got {describe_value(value)[:SHOWN]}{hint}"


def wrong_role(cls: type, is_partial: bool, path: Path) -> str | None:
    """Returns why the class may not stand at a path of a composed configuration; None if it may, or the path has no role.

    is_partial: whether a function that makes the object would stand there.
    """
    key = _key_of_role(path) if path else None
    if key is None:
        return None
    if not issubclass(cls, role := _role_class(ROLES[key])):
        return f"a subclass of {role.__name__} goes there, and {cls.__name__} is none"
    if is_partial and key not in (LOGGERS, "trainer"):
        return "_partial_: true makes a function, and an object goes there"
    return "need _partial_: true: the run gives it callbacks and loggers" if key == "trainer" and not is_partial else None


def _leads_elsewhere(cls: type, node: dict[str, Any]) -> str | None:
    """Returns why an object from a file could write into a folder of its own choice; None if it could not."""
    if not issubclass(cls, _role_class(ROLES[LOGGERS])) or node.get("_partial_") is True:
        return None
    return "need _partial_: true: a logger of a file writes into the folder of the run"


def _wrong_role(cls: type, path: Path, hint: Any) -> str | None:
    """Returns why the class may not stand at the path; None if it may. At the root, only keys with a role are ever built."""
    is_root = len(path) == 1 and hint is None
    expected = classes_in(hint) if hint is not ANYTHING else set()
    if is_root or hint is ANYTHING or any(issubclass(cls, each) for each in expected):
        return None
    wanted = " or ".join(sorted(f"a subclass of {each.__name__}" for each in expected)) or "no object"
    return f"_target_ {cls.__name__} is refused: {wanted} goes there"


def _role(path: Path) -> type | None:
    """Returns the base class of the objects that are allowed at a path, or None if the path has no role."""
    key = _key_of_role(path)
    return None if key is None else _role_class(ROLES[key])


def _key_of_role(path: Path) -> str | None:
    *parents, last = map(str, path)
    return next((key for key in (".".join([*parents, last]), ".".join([*parents, "*"])) if key in ROLES), None)


@cache
def _role_class(target: str) -> type:
    return pkgutil.resolve_name(target)
