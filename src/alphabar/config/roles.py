"""The classes that a configuration out of a file may name, by the role that they have where they stand.

What the command line names may be any class of `allowed_targets`.
"""

import re
from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import Any

from alphabar.config.allowed_targets import locate
from alphabar.config.former_names import current_target
from alphabar.config.interpolation import Path, dotted_path
from alphabar.config.signatures import type_hints
from alphabar.config.type_hints import classes_in
from alphabar.errors import UserError

SHOWN = 100  # the most characters of a key or of a name in a message
# The prefixes of classes that a stored configuration may name, by the module that defines the class, and further classes: those of
# Lightning that only watch a run.
OWN_PREFIXES = ("alphabar.", "torch.nn.modules.", "torch.optim.")
WATCHING = (
    "lightning.pytorch.callbacks.device_stats_monitor.DeviceStatsMonitor",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.lr_monitor.LearningRateMonitor",
    "lightning.pytorch.callbacks.timer.Timer",
)
# By this alone nothing is imported from elsewhere.
DOTTED_NAME = re.compile(r"(alphabar|torch\.nn|torch\.optim|lightning\.pytorch)(\.\w+)+")
TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
# The class that may stand at each key that a command builds (*: at any key); arguments have the class of their type hint.
ROLES = {
    "callbacks.*": "lightning.pytorch.callbacks.callback.Callback",
    "codec": "alphabar.models.codecs.Codec",
    "conditioner": "alphabar.models.conditioners.Conditioner",
    "data": "alphabar.data.datamodule.ImageDataModule",
    "guidance": "alphabar.sampling.guidance_config.Guide",
    "logger.*": "lightning.pytorch.loggers.logger.Logger",
    "module": "alphabar.training.modules.base.BaseModule",
    "module.codec": "alphabar.models.codecs.Codec",
    "module.conditioner": "alphabar.models.conditioners.Conditioner",
    "module.denoiser": "alphabar.diffusion.denoiser.NetworkDenoiser",
    "sampler": "alphabar.diffusion.samplers.Sampler",
    "trainer": TRAINER,
}


def check_roles(
    config: dict[str, Any], name: str, approved: Collection[Path] = (), advice: Callable[[str], str] = lambda key: ""
) -> None:
    """Raises UserError if a resolved configuration names a class that has no business where it stands; builds nothing.

    name: the file in messages. approved: the paths of nodes whose class the user has named. advice: makes the end of the message
    of the dotted key.
    """
    for path, reason in _misplaced(config, (), None):
        if path not in approved:
            key = dotted_path(path)
            raise UserError(f"{name}: {key[:SHOWN]}: {reason}{advice(key)}")


def _misplaced(value: Any, path: Path, hint: Any) -> Iterator[tuple[Path, str]]:
    """Yields the path of every node whose class is refused, with the reason. hint: the type of what may stand here, if known."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _misplaced(item, (*path, index), hint)
        return
    if not isinstance(value, dict):
        return
    hints: dict[str, Any] = {}
    if "_target_" in value:
        try:
            cls = _stored_class(value["_target_"])
        except ValueError as error:
            yield path, str(error)
            return
        if reason := _wrong_role(cls, path, hint):
            yield path, reason
        hints = type_hints(cls)
    for key, item in value.items():
        known = hints.get(str(key)) if "_target_" in value else hint
        yield from _misplaced(item, (*path, key), _role((*path, key)) or known)


def _stored_class(target: object) -> type:
    """Returns the class of a stored `_target_`. Raises ValueError, with one line, if it is refused or does not exist."""
    allowed = "of alphabar, torch.nn and torch.optim, and " + ", ".join(name.rpartition(".")[2] for name in WATCHING)
    refusal = f"_target_ {str(target)[:SHOWN]} is refused: a configuration out of a file may name only classes {allowed}"
    if not isinstance(target, str) or not DOTTED_NAME.fullmatch(target):
        raise ValueError(refusal)
    cls = locate(current_target(target))
    if not f"{cls.__module__}.".startswith(OWN_PREFIXES) and f"{cls.__module__}.{cls.__qualname__}" not in (*WATCHING, TRAINER):
        raise ValueError(refusal)
    return cls


def _wrong_role(cls: type, path: Path, hint: Any) -> str | None:
    """Returns why the class may not stand at the path; None if it may. At the root only what has a role is ever built."""
    is_root = len(path) == 1 and hint is None
    expected = classes_in(hint)
    if is_root or any(issubclass(cls, each) for each in expected):
        return None
    wanted = " or ".join(sorted(f"a subclass of {each.__name__}" for each in expected)) or "no object"
    return f"_target_ {cls.__name__} is refused: {wanted} goes there"


def _role(path: Path) -> type | None:
    """Returns the class of what may stand at a path that has a role, else None."""
    *parents, last = map(str, path)
    target = ROLES.get(".".join([*parents, last])) or ROLES.get(".".join([*parents, "*"]))
    return None if target is None else _role_class(target)


@cache
def _role_class(target: str) -> type:
    return locate(target)
