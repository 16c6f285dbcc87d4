"""The classes that `_target_` may name.

Classes of alphabar, `torch.nn` and `torch.optim`, the Trainer, and callbacks of Lightning that only watch a run are always allowed.
Other classes have to be allowed in this process first: `allowing` is entered for the classes that the user composes, and `allow` is
called for those that `config.roles` accepts from a file. Nothing else is imported, since importing a module runs its code.
"""

import importlib
import inspect
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

from alphabar.config.former_names import current_target
from alphabar.errors import did_you_mean
from alphabar.files.paths import user_path

OWN_PREFIXES = ("alphabar.", "torch.nn.", "torch.optim.")
# Classes of Lightning by the names under which they are imported and by those of their modules.
TRAINER = ("lightning.pytorch.Trainer", "lightning.pytorch.trainer.trainer.Trainer")
WATCHING = {
    "DeviceStatsMonitor": "device_stats_monitor",
    "EarlyStopping": "early_stopping",
    "LearningRateMonitor": "lr_monitor",
    "Timer": "timer",
}
OF_LIGHTNING = {
    *TRAINER,
    *(f"lightning.pytorch.callbacks.{name}" for name in WATCHING),
    *(f"lightning.pytorch.callbacks.{module}.{name}" for name, module in WATCHING.items()),
}
SHOWN = 100  # the most characters of a name in a message

_allowed: set[str] = set()  # further names, as they are written


@contextmanager
def allowing(targets: Collection[str]) -> Iterator[None]:
    """Allows, inside the context, further classes by their dotted names."""
    global _allowed
    before = _allowed
    _allowed = {*before, *targets}
    try:
        yield
    finally:
        _allowed = before


def allow(target: str) -> None:
    """Allows one more class by its dotted name, as long as the innermost `allowing` lasts."""
    _allowed.add(target)


def is_own(name: str) -> bool:
    """Returns whether a dotted name is always allowed: it is of alphabar, torch.nn or torch.optim, or in `OF_LIGHTNING`."""
    return name.startswith(OWN_PREFIXES) or name in OF_LIGHTNING


def is_foreign(module: str) -> bool:
    """Returns whether a module is of a package of somebody else's, of which a class has been allowed in this process."""
    packages = {target.partition(".")[0] for target in _allowed} - {"alphabar", "torch", "lightning"}
    return module.partition(".")[0] in packages


def reason_for_refusal(target: object) -> str | None:
    """Returns why this `_target_` is refused by its name alone, without importing anything; None if it is not refused."""
    if not isinstance(target, str):
        return f"_target_ must be the dotted name of a class, got {target!r}"
    if not is_own(target) and target not in _allowed:
        return f"_target_ {target[:SHOWN]} is refused: only classes of alphabar, torch.nn and torch.optim need not be allowed first"
    return None


def locate(target: str) -> type:
    """Returns the class with a dotted name. Raises ValueError, with one line, if it is refused or does not exist."""
    if reason := reason_for_refusal(target):
        raise ValueError(reason)
    module_name, _, name = current_target(target).rpartition(".")
    if not module_name:
        raise ValueError(f"_target_ {target}: need the dotted name of a class, such as package.module.Class")
    module = _own_module(module_name, target) if is_own(target) else _foreign_module(module_name, target)
    found = getattr(module, name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise ValueError(f"_target_ {target}: there is no class {name} in {module_name}{did_you_mean(name, names)}")
    if is_own(target) and not (inspect.isclass(found) and is_own(f"{found.__module__}.{found.__qualname__}")):
        raise ValueError(f"_target_ {target} is refused: not a class defined in a module that is allowed")
    if not inspect.isclass(found):
        raise ValueError(f"_target_ {target} is refused: need the name of a class, and it is a {type(found).__name__}")
    return found


def find_package(target: str) -> ModuleSpec | None:
    """Returns the location of the outermost package of a dotted name, without importing it; None if there is none.

    It is searched for on the path of Python and then in the folder in which the command was started.
    """
    package = target.partition(".")[0]
    try:
        return find_spec(package) or PathFinder.find_spec(package, [str(user_path("").absolute())])
    except (ImportError, ValueError):  # a name that is none, or a module without a place, as __main__
        return None


def _own_module(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(_not_found(name, target, error)) from error


def _foreign_module(name: str, target: str) -> ModuleType:
    """Returns a module of others. Raises ValueError if it does not exist, or its import fails for any reason."""
    folder = str(user_path("").absolute())
    package = name.partition(".")[0]
    if package not in sys.modules and find_package(name) is None:
        raise ValueError(f"_target_ {target}: there is no module {package}: it is neither installed nor in this folder")
    # Only where it is needed: else any file there could stand for a package that is not installed.
    if package not in sys.modules and find_spec(package) is None and folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(_not_found(name, target, error)) from error
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"_target_ {target}: importing {name} fails with {reason}") from error


def _not_found(name: str, target: str, error: ModuleNotFoundError) -> str:
    if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
        return f"_target_ {target}: there is no module {error.name}"
    return f"_target_ {target} needs the package {error.name}, which is not installed"
