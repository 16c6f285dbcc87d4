"""The words of a command line: `key=value`."""

import re
from collections.abc import Iterable, Sequence

from hydra._internal.utils import get_args_parser

# Keys and groups of Hydra that say how a sweep runs, and nothing to one of its jobs.
OF_SWEEPS = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra.sweeper", "hydra.launcher", "hydra/sweeper", "hydra/launcher")


def quoted(value: str) -> str:
    """The text as a value that Hydra reads back unchanged, whatever is in it: in quotes, with escapes."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return '"' + re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + (r"\"" if match[2] else ""), value) + '"'


def requoted(words: list[str]) -> list[str]:
    """The words that Lightning starts another process with, made readable: it puts bare quotes around the run's folder."""
    words = list(words)
    for index, word in enumerate(words[1:]):
        if word.startswith("hydra.job.name=train_ddp_process_"):
            key, value = words[index].split("=", 1)
            words[index] = f"{key}={quoted(value[1:-1])}"
    return words


def split(word: str) -> tuple[str, str | None]:
    """Key (with its `+` or `~`) and value of a word; None for the value if there is no `=`."""
    key, equals, value = word.partition("=")
    return key, value if equals else None


def bare(key: str) -> str:
    """The key without `+`, `++` or `~`."""
    return key.lstrip("+~")


def search_options(arguments: Sequence[str]) -> list[str]:
    """Returns those options of a command line that say which YAML files it composes."""
    args, _ = get_args_parser().parse_known_intermixed_args(arguments)
    names = ("config_name", "config_path", "config_dir")
    return [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names if getattr(args, name) is not None]


def words_for_jobs(words: Iterable[str]) -> list[str]:
    """Returns the words with Hydra's own keys that act in the jobs of a sweep, too."""
    names = [(word, split(bare(word))[0]) for word in words]
    return [word for word, key in names if not any(key == sweep or key.startswith(f"{sweep}.") for sweep in OF_SWEEPS)]
