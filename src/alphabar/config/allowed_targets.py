"""Which classes a configuration may name.

A configuration also arrives inside checkpoints, so that what it names must not be able to run foreign code: only classes, only
by the module they are in, and only from the modules below.
"""

import importlib
import inspect
from difflib import get_close_matches
from types import ModuleType

from alphabar.config.former_names import current_target

ALLOWED = (
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
    """Whether the dotted name is, or is inside, what is allowed."""
    return any(name.startswith(prefix) if prefix.endswith(".") else name == prefix for prefix in ALLOWED)


def refusal(target: object) -> str | None:
    """Why this `_target_` is refused by its name alone, before anything is imported; None if it is not."""
    if not isinstance(target, str):
        return f"_target_ must be the dotted name of a class, got {target!r}"
    if not is_allowed(target):
        return f"_target_ {target} is refused: it must be a class of alphabar, torch.nn, torch.optim, lightning or torchmetrics"
    return None


def locate(target: str) -> type:
    """The class behind a dotted name. Raises ValueError, with one line, if it is refused or does not exist."""
    if reason := refusal(target):
        raise ValueError(reason)
    module_name, _, name = current_target(target).rpartition(".")
    found = vars(_module(module_name, target)).get(name)
    if found is None:
        names = [key for key, value in vars(_module(module_name, target)).items() if inspect.isclass(value)]
        nearest = get_close_matches(name, names, n=1)
        hint = f". Did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"_target_ {target}: there is no class {name} in {module_name}{hint}")
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
