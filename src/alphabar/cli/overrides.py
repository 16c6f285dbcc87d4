"""Functions on the overrides of a command line, the words `key=value`."""

import re
from collections.abc import Collection, Iterable, Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

# Keys and groups of Hydra that control how a sweep runs and have no effect on one of its jobs.
OF_SWEEPS = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra.sweeper", "hydra.launcher", "hydra/sweeper", "hydra/launcher")
# Groups that a command can do without; Hydra writes `~callbacks` for what users write `callbacks=null`.
MAY_BE_DROPPED = ("callbacks", "logger", "experiment", "debug")
# Keys at the root whose values are texts; code reads them, so that no constructor's type hint states their type.
TEXTS = ("name", "resume", "codec_name", "clip_name")
# A value in a list of values: it ends at a comma that is in no quotes, brackets, braces or parentheses.
VALUE = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\[[^]]*\]|\{[^}]*\}|\([^)]*\)|[^,])+""")


def quoted(value: str) -> str:
    """Returns the text in quotes and with escapes, so that Hydra reads it back unchanged whatever it contains."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return '"' + re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + (r"\"" if match[2] else ""), value) + '"'


def requoted(words: list[str]) -> list[str]:
    """Returns the words with valid quoting; Lightning puts unescaped quotes around the run's folder when it starts a process."""
    words = list(words)
    for index, word in enumerate(words[1:]):
        if word.startswith("hydra.job.name=train_ddp_process_"):
            key, value = words[index].split("=", 1)
            words[index] = f"{key}={quoted(value[1:-1])}"
    return words


def split(word: str) -> tuple[str, str | None]:
    """Returns the key (with its `+` or `~`) and the value of a word; the value is None if there is no `=`."""
    key, equals, value = word.partition("=")
    return key, value if equals else None


def bare(key: str) -> str:
    """Returns the key without `+`, `++` or `~`."""
    return key.lstrip("+~")


def search_options(arguments: Sequence[str]) -> list[str]:
    """Returns the options of a command line that choose which YAML files are composed."""
    args, _ = get_args_parser().parse_known_intermixed_args(arguments)
    names = ("config_name", "config_path", "config_dir")
    return [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names if getattr(args, name) is not None]


def words_for_jobs(words: Iterable[str]) -> list[str]:
    """Returns the overrides of Hydra's own keys that also apply to the jobs of a sweep."""
    names = [(word, split(bare(word))[0]) for word in words]
    return [word for word, key in names if not any(key == sweep or key.startswith(f"{sweep}.") for sweep in OF_SWEEPS)]


def dropped(word: str) -> str:
    """Returns `~callbacks` for `callbacks=null`, and every other word as it is."""
    key, value = split(word)
    return f"~{key}" if key in MAY_BE_DROPPED and value == "null" else word


def text_quoted(word: str) -> str:
    """Returns the word with quotes around each number or truth value where the key takes a text: `name=1e3`, `name=1e3,2e3`."""
    key, value = split(word)
    if bare(key) not in TEXTS or value is None:
        return word
    texts = [
        quoted(part.strip()) if isinstance(value_of(f"key={part}"), int | float) else part for part in swept_values(word) or [value]
    ]
    return f"{key}={','.join(texts)}"


def swept_values(word: str) -> list[str]:
    """Returns the values of `key=a,b` or `key=choice(a,b)` as they are written; an empty list for any other word."""
    override = parsed(word)
    if override is None or not override.is_choice_sweep():
        return []
    value = str(split(word)[1]).strip()
    parts = VALUE.findall(value.removeprefix("choice(").removesuffix(")") if value.startswith("choice(") else value)
    return parts if len(parts) == len(list(override.sweep_string_iterator())) else []


def as_swept(words: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Returns the overrides of a job of a sweep with their values as `arguments` write them: Hydra makes 1000.0 of 1e3."""
    sources = {}
    for argument in arguments:
        for part in swept_values(argument):
            key = split(argument)[0]
            if isinstance(number := value_of(f"key={part}"), float):
                sources[f"{key}={number}"] = f"{key}={part.strip()}"
    return [sources.get(word, word) for word in words]


def value_of(word: str) -> object:
    """Returns the value of a word as Hydra parses it; None if it cannot be parsed, or is a sweep over several values."""
    override = parsed(word)
    return None if override is None or override.is_sweep_override() else override.value()


def parsed(word: str) -> Override | None:
    """Returns the override as Hydra parses it, or None if it cannot be parsed."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def resumed_folder(words: Iterable[str]) -> str | None:
    """Returns the folder of the run that the words resume; None if they do not resume a run."""
    values = [value_of(word) for word in words if bare(split(word)[0]) == "resume"]
    return str(values[-1]) if values and values[-1] is not None else None


def for_resumed_run(words: Iterable[str], groups: Collection[str]) -> list[str]:
    """Returns the words that change values of the run that is resumed; the other words choose groups or set Hydra's own keys."""
    keys = {word: bare(split(word)[0]) for word in words}
    return [
        word for word, key in keys.items() if key not in groups and key != "resume" and not key.startswith(("hydra.", "hydra/"))
    ]
