"""The command that this process carries out, as receipts and pictures state it; there is none in a program of one's own."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

import alphabar
from alphabar.config.interpolation import unresolved_container
from alphabar.files.paths import display_path, user_path
from alphabar.runs.provenance.masking import masked_config, masked_word

COMMANDS = ("train", "sample", "evaluate", "prepare")
# The variable that says how the program `alphabar` was called; its jobs and further processes have it, too.
PROGRAM = "ALPHABAR_PROGRAM"
CALL = rf"(?:python )?\b({'|'.join(COMMANDS)})\.py\b"
ENVIRONMENT = "oc.env:"  # an interpolation of a variable of the environment
SECRET_LENGTH = 8  # characters that a value has at least for which nothing else can be mistaken


class CurrentCommand(NamedTuple):
    """A command of ours: the script with its arguments, as they were typed, and its configuration."""

    words: tuple[str, ...]
    config: DictConfig


_current: CurrentCommand | None = None


@contextmanager
def carrying_out(words: Sequence[str], config: DictConfig) -> Iterator[None]:
    """Makes `words`, a script and its arguments, the command that is stated inside, and `config` its configuration."""
    global _current
    before = _current
    _current = CurrentCommand(tuple(words), config)
    try:
        yield
    finally:
        _current = before


def command_words() -> list[str]:
    """Returns the words of the command, without secrets: python, the script and its arguments; none without a command."""
    if _current is None:
        return []
    script, *arguments = _current.words
    return [*invocation(script), *map(masked_word, arguments)]


def scripts_folder() -> Path:
    """Returns the folder of train.py, sample.py, evaluate.py and conf/: in the package of a wheel, else the top of the checkout."""
    package = Path(alphabar.__file__).resolve().parent
    installed = package / "scripts"
    return installed if installed.is_dir() else package.parents[1]


def invocation(script: str) -> list[str]:
    """Returns the words that call a script or module: `python train.py`; `alphabar train` where the program was called so."""
    path = user_path(script)
    if PROGRAM in os.environ and path.stem in COMMANDS and path.resolve().parent == scripts_folder():
        return [*shlex.split(os.environ[PROGRAM]), path.stem]
    return ["python", display_path(path)] if script.endswith(".py") else ["python", "-m", script]


def with_invocations(text: str) -> str:
    """Returns the text with every `python train.py` and the like as this process is called; columns on the right stay in place."""
    if PROGRAM not in os.environ:
        return text

    def called(text: str) -> str:
        return re.sub(CALL, lambda match: f"{os.environ[PROGRAM]} {match[1]}", text)

    padded = re.sub(rf"{CALL}\S*( \S+)*  +(?=\S)", lambda match: f"{called(match[0].rstrip()):<{len(match[0]) - 2}}  ", text)
    return called(padded)


def command_text() -> str | None:
    """Returns the command as it is typed in a shell, without secrets; None in a program of one's own."""
    return shlex.join(command_words()) or None


def command_config() -> dict[str, Any] | None:
    """Returns the resolved configuration of the command, without secrets and without values of the environment."""
    if _current is None:
        return None
    resolved, written = OmegaConf.to_container(_current.config, resolve=True), unresolved_container(_current.config)
    secrets = {value: text for value, text in _from_environment(resolved, written) if len(value) >= SECRET_LENGTH}
    return masked_config(_without_environment(resolved, written, secrets))


def _from_environment(resolved: Any, written: Any) -> Iterator[tuple[str, str]]:
    """Yields the values that come from variables of the environment, with the interpolations that they are written as."""
    if isinstance(written, dict) and isinstance(resolved, dict):
        for key, value in written.items():
            yield from _from_environment(resolved.get(key), value)
    elif isinstance(written, list) and isinstance(resolved, list):
        for value, other in zip(resolved, written, strict=False):
            yield from _from_environment(value, other)
    elif isinstance(written, str) and ENVIRONMENT in written:
        yield str(resolved), written


def _without_environment(resolved: Any, written: Any, secrets: Mapping[str, str]) -> Any:
    """Returns the plain configuration with interpolations of the environment as they are written.

    secrets: values that are replaced by these wherever they stand, be it through other keys; short ones, such as a number, may
    stand there by chance.
    """
    if isinstance(resolved, dict):
        inner = written if isinstance(written, dict) else {}
        return {key: _without_environment(value, inner.get(key), secrets) for key, value in resolved.items()}
    if isinstance(resolved, list):
        others = written if isinstance(written, list) else [None] * len(resolved)
        return [_without_environment(value, other, secrets) for value, other in zip(resolved, others, strict=False)]
    if isinstance(written, str) and ENVIRONMENT in written:
        return written
    return secrets.get(str(resolved), resolved)
