"""The classes that a configuration may name.

Configurations also arrive inside checkpoints and must not be able to run foreign code. They may therefore name only classes, only
by the module that defines them, and only in the modules below.
"""

import importlib
import inspect
from types import ModuleType

from alphabar.config.former_names import current_target
from alphabar.errors import did_you_mean

ALLOWED_PREFIXES = (
    "alphabar.",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.accelerators.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.plugins.",
    "lightning.pytorch.profilers.",
    "lightning.pytorch.strategies.",
    "lightning.pytorch.trainer.trainer.Trainer",
    "torch.nn.",
    "torch.optim.",
    "torchmetrics.",
)


def is_allowed(name: str) -> bool:
    """Returns whether the dotted name is one of the allowed names or lies in an allowed module."""
    return any(name.startswith(prefix) if prefix.endswith(".") else name == prefix for prefix in ALLOWED_PREFIXES)


def reason_for_refusal(target: object) -> str | None:
    """Returns why this `_target_` is refused by its name alone, without importing anything; None if it is not refused."""
    if not isinstance(target, str):
        return f"_target_ must be the dotted name of a class, got {target!r}"
    if not is_allowed(target):
        return f"_target_ {target} is refused: it must be a class of alphabar, torch.nn, torch.optim, lightning or torchmetrics"
    return None


def locate(target: str) -> type:
    """Returns the class with a dotted name. Raises ValueError, with one line, if it is refused or does not exist."""
    if reason := reason_for_refusal(target):
        raise ValueError(reason)
    module_name, _, name = current_target(target).rpartition(".")
    found = vars(_module(module_name, target)).get(name)
    if found is None:
        names = [key for key, value in vars(_module(module_name, target)).items() if inspect.isclass(value)]
        raise ValueError(f"_target_ {target}: there is no class {name} in {module_name}{did_you_mean(name, names)}")
    if not inspect.isclass(found) or not is_allowed(f"{found.__module__}.{found.__qualname__}"):
        raise ValueError(f"_target_ {target} is refused: not a class defined in a module that is allowed")
    return found


def _module(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"_target_ {target}: there is no module {error.name}") from error
        raise ValueError(f"_target_ {target} needs the package {error.name}, which is not installed") from error
