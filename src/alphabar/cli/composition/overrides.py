"""Functions on the overrides of a command line, `key=value`, which are called words here."""

import re
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from alphabar.errors import UserError
from alphabar.runs.folders.run_dir import AUTO

# Keys and groups of Hydra that control how a sweep runs and have no effect on one of its jobs.
SWEEP_ONLY_KEYS = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra.sweeper", "hydra.launcher", "hydra/sweeper", "hydra/launcher")
# Groups that a command can do without; Hydra writes `~callbacks` for what users write `callbacks=null`.
OPTIONAL_GROUPS = ("callbacks", "logger", "experiment", "debug")
# Keys at the root whose values are texts; code reads them, so that no constructor's type hint states their type.
TEXT_KEYS = ("name", "resume", "init_from", "codec_name", "clip_name", "sweep.resume")
NUMBERED_FILES = re.compile(r"[^\s'\"\[\]{},=]+\{\d+\.\.\d+\}[^\s'\"\[\]{},=]*")
RESUMED_SWEEP = "sweep.resume"  # no key of a configuration: it stands for the command line of the sweep in a folder
# A value in a list of values: it ends at a comma that is in no quotes, brackets, braces or parentheses.
LISTED_VALUE = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\[[^]]*\]|\{[^}]*\}|\([^)]*\)|[^,])+""")


def quoted(value: str) -> str:
    """Returns the text in quotes and with escapes, so that Hydra reads it back unchanged whatever it contains."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return '"' + re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + (r"\"" if match[2] else ""), value) + '"'


def repair_lightning_quotes(words: list[str]) -> list[str]:
    """Returns the words with valid quoting; Lightning puts unescaped quotes around the run's folder when it starts a process."""
    words = list(words)
    for index, word in enumerate(words[1:]):
        if word.startswith("hydra.job.name=train_ddp_process_"):
            key, value = words[index].split("=", 1)
            words[index] = f"{key}={quoted(value[1:-1])}"
    return words


def split_override(word: str) -> tuple[str, str | None]:
    """Returns the key (with its `+` or `~`) and the value of a word; the value is None if there is no `=`."""
    key, equals, value = word.partition("=")
    return key, value if equals else None


def without_prefix(key: str) -> str:
    """Returns the key without `+`, `++` or `~`."""
    return key.lstrip("+~")


def override_texts(words: Sequence[str]) -> dict[str, str | None]:
    """Returns the values of the overrides by their keys, in the words of the command line."""
    return {without_prefix(key): value for key, value in map(split_override, words)}


def config_options(arguments: Sequence[str]) -> list[str]:
    """Returns the options of a command line that choose which YAML files are composed."""
    args, _ = get_args_parser().parse_known_intermixed_args(arguments)
    names = ("config_name", "config_path", "config_dir")
    return [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names if getattr(args, name) is not None]


def hydra_overrides_for_jobs(words: Iterable[str]) -> list[str]:
    """Returns the overrides of Hydra's own keys that also apply to the jobs of a sweep."""
    names = [(word, split_override(without_prefix(word))[0]) for word in words]
    return [word for word, key in names if not any(key == sweep or key.startswith(f"{sweep}.") for sweep in SWEEP_ONLY_KEYS)]


def is_sweep(args: Namespace) -> bool:
    """Returns whether the command line asks for a sweep."""
    return args.multirun or "hydra.mode=MULTIRUN" in args.overrides


def null_as_deletion(word: str) -> str:
    """Returns `~callbacks` for `callbacks=null`, and every other word as it is."""
    key, value = split_override(word)
    return f"~{key}" if key in OPTIONAL_GROUPS and value == "null" else word


def quote_text_value(word: str) -> str:
    """Returns the word with quotes around each number or truth value where the key takes a text: `name=1e3`, `name=1e3,2e3`.

    Also around the name of numbered files, photos-{000..009}.tar, in which Hydra would look for a mapping.
    """
    key, value = split_override(word)
    if value is not None and NUMBERED_FILES.fullmatch(value):
        return f"{key}={quoted(value)}"
    if without_prefix(key) not in TEXT_KEYS or value is None:
        return word
    parts = choice_sweep_values(word) or [value]
    texts = [quoted(part.strip()) if isinstance(override_value(f"key={part}"), int | float) else part for part in parts]
    return f"{key}={','.join(texts)}"


def choice_sweep_values(word: str) -> list[str]:
    """Returns the values of `key=a,b` or `key=choice(a,b)` as they are written; an empty list for any other word."""
    override = parse_override(word)
    if override is None or not override.is_choice_sweep():
        return []
    value = str(split_override(word)[1]).strip()
    parts = LISTED_VALUE.findall(value.removeprefix("choice(").removesuffix(")") if value.startswith("choice(") else value)
    try:
        return parts if len(parts) == len(list(override.sweep_string_iterator())) else []
    except OmegaConfBaseException:  # a sweep within a sweep, which Hydra cannot put into words
        return []


def restore_number_formats(words: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Returns the overrides of a job of a sweep with their values as `arguments` write them.

    Hydra makes 1000.0 of 1e3 and 202401 of 2024_01, which may be texts.
    """
    sources = {}
    for argument in arguments:
        for part in choice_sweep_values(argument):
            key = split_override(argument)[0]
            if isinstance(number := override_value(f"key={part}"), int | float) and not isinstance(number, bool):
                sources[f"{key}={number}"] = f"{key}={part.strip()}"
    return [sources.get(word, word) for word in words]


def override_value(word: str) -> object:
    """Returns the value of a word as Hydra parses it; None if it cannot be parsed, or is a sweep over several values."""
    override = parse_override(word)
    return None if override is None or override.is_sweep_override() else override.value()


def parse_override(word: str) -> Override | None:
    """Returns the override as Hydra parses it, or None if it cannot be parsed."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def resumed_folder(words: Iterable[str]) -> str | None:
    """Returns the folder of the run that the words resume; None if they name none, as `resume=auto` does not."""
    values = [override_value(word) for word in words if without_prefix(split_override(word)[0]) == "resume"]
    return str(values[-1]) if values and values[-1] not in (None, AUTO) else None


def resumed_sweep(words: Sequence[str], may_be_repeated: Callable[[str], bool]) -> str | None:
    """Returns the folder of the sweep that the words go on with; None if they do not.

    Raises UserError for other words beside it, since all jobs have the overrides that they began with. Those that could do harm
    have to be repeated.
    """
    values = {word: split_override(word)[1] for word in words if split_override(word)[0] == RESUMED_SWEEP}
    if not values:
        return None
    if others := [word for word in words if word not in values and not may_be_repeated(word)] or list(values)[1:]:
        raise UserError(f"{others[0]}: a sweep goes on as it was begun; {RESUMED_SWEEP}=FOLDER stands alone")
    (word,) = values
    folder = override_value(f"key={values[word]}")
    if not isinstance(folder, str) or not folder:
        raise UserError(f"{word}: need the folder of a sweep, {RESUMED_SWEEP}=FOLDER")
    return folder


def goes_on_if_repeated(words: Sequence[str]) -> bool:
    """Returns whether a command with these words, given once more, goes on with the run or the sweep that it began.

    A sweep does with sweep.resume=FOLDER, or with resume=auto and a folder that is the same at every start.
    """
    keys = [without_prefix(split_override(word)[0]) for word in words]
    if RESUMED_SWEEP in keys:
        return True
    is_auto = any(key == "resume" and override_value(word) == AUTO for key, word in zip(keys, words, strict=True))
    is_sweep = not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(words)
    has_folder = any(key == "hydra.sweep.dir" and "${" not in word for key, word in zip(keys, words, strict=True))
    return is_auto and (has_folder or not is_sweep)


def overrides_of_resumed_run(words: Iterable[str], groups: Collection[str]) -> list[str]:
    """Returns the words that change values of the run that is resumed; the other words choose groups or set Hydra's own keys."""
    keys = {word: without_prefix(split_override(word)[0]) for word in words}
    return [
        word for word, key in keys.items() if key not in (*groups, "resume", "trust") and not key.startswith(("hydra.", "hydra/"))
    ]
