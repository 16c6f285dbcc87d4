"""The check of the command line in the record of a sweep, which somebody else may have written."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from alphabar.cli.composition.overrides import RESUMED_SWEEP, config_options, override_value, split_override, without_prefix
from alphabar.config.bounds import SEPARATORS, exceeds_bounds
from alphabar.config.trust import is_known, remember, words_hash
from alphabar.errors import UserError
from alphabar.models.hub import would_be_downloaded
from alphabar.runs.folders.run_dir import AUTO

# Keys of Hydra's own that choose nothing but the jobs; others name classes, folders of YAML files and variables of the environment.
KEYS_OF_JOBS = ("hydra.mode", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.sweeper.params", "hydra/sweeper", "hydra/launcher")
RESOLVER = re.compile(r"\$\{(?![\w.]+\})")  # an interpolation that is not of another key: ${oc.env:NAME}, or one inside another
OPTIONS = ("overrides", "multirun", "config_name", "config_path", "config_dir")
# Keys that say where files are written, and what is fetched; their last parts, wherever they stand.
WRITTEN = re.compile(r"\b(download|cache_dir|dirpath|save_dir|default_root_dir|tracking_uri)\b")
# Keys whose files are read and never written, so that they may lie anywhere; data.root, too, but where a download writes it.
READ = (
    "checkpoint",
    "data.held_out_path",
    "data.name",
    "data.path",
    "data.root",
    "data_root",
    "images",
    "init_from",
    "prompts",
    "samples",
    "vectors",
)
# Keys that may name a model or dataset of the hub.
MODELS = re.compile(r"(.*\.)?(codec_name|clip_name|clip|weights|init_from)|.+\.name")
# What names a class in an override: network._target_=mylab.Net,mylab.Other or +callbacks.mine={_target_:mylab.Callback}.
CLASS = re.compile(r"^[\w.+]*\._target_=(?P<several>[\w.]+(,[\w.]+)*)$|\b_target_\s*:\s*(?P<one>[\w.]+)")
PACKAGE = re.compile(r"hydra\.searchpath=\[pkg://([\w.]+)\]")  # YAML files in a package
# Interpolations of what the job itself has; those of paths and of most of Hydra's keys give folders of this machine.
OF_A_JOB = re.compile(r"\$\{(?!hydra\.|paths\.)[\w.]+\}|\$\{hydra\.job\.(num|override_dirname)\}")


def is_risky(word: str) -> bool:
    """Returns whether an override can do more than set a value.

    A risky one names a class, trusts modules, calls a resolver, configures Hydra, resumes a run, chooses where files are written,
    downloads something, or exceeds the bounds of `exceeds_bounds`.
    """
    key, value = split_override(word)
    key, value = without_prefix(key), value or ""
    if key in ("hydra.sweep.dir", RESUMED_SWEEP):  # the folder of the sweep itself, wherever it lies
        return False
    if RESOLVER.search(word) or "_target_" in word or WRITTEN.search(word) or exceeds_bounds(word):
        return True
    if key.partition(".")[0] in ("paths", "trust") or (key == "resume" and value not in ("null", AUTO)):
        return True
    if MODELS.fullmatch(key) and any("/" in part and would_be_downloaded(part) for part in SEPARATORS.split(value)):
        return True
    is_of_hydra = key.partition(".")[0].partition("/")[0] == "hydra" and not key.startswith(KEYS_OF_JOBS)
    return is_of_hydra or (key not in READ and leads_elsewhere(value))


def modules_that_run(word: str) -> list[str]:
    """Returns the names of the modules that a risky override runs; none if it has any other effect."""
    if is_trust(word):
        modules = override_value(word)
        return [f"{module}." for module in modules] if isinstance(modules, list) else []
    if package := PACKAGE.fullmatch(word):
        return [f"{package[1]}."]
    names = [name for found in CLASS.finditer(word) for name in (found["several"] or found["one"]).split(",")]
    return names if names and not is_risky(CLASS.sub("x=x", word)) else []


def is_covered(word: str, modules: Sequence[str]) -> bool:
    """Returns whether a risky override has no other effect than to run these modules."""
    names = modules_that_run(word)
    return bool(names) and all(any(name.startswith(f"{module}.") for module in modules) for name in names)


def may_be_repeated(word: str) -> bool:
    """Returns whether an override may be given with `sweep.resume`: a risky one, or a data root, which a download writes."""
    return is_risky(word) or without_prefix(split_override(word)[0]) == "data.root"


def leads_elsewhere(value: str) -> bool:
    """Returns whether the value of an override has a path that is absolute, contains "..", or depends on this process."""
    value = OF_A_JOB.sub("x", value)
    return "$" in value or any(part.startswith(("/", "~")) or ".." in part.split("/") for part in SEPARATORS.split(value))


def risky_words(arguments: Sequence[str]) -> list[str]:
    """Returns the options and overrides of a sweep that can do more than set values."""
    is_fetched = any("download" in word for word in arguments)
    return [*config_options(arguments), *filter(may_be_repeated if is_fetched else is_risky, arguments)]


def remember_command(arguments: Sequence[str]) -> None:
    """Records the command line of the user's own sweep, so that it can be resumed from this folder without `trust`."""
    if risky_words(arguments):
        remember([(_command_hash(arguments), f"a sweep of {Path(sys.argv[0]).name}")])


def _command_hash(arguments: Sequence[str]) -> str:
    return words_hash([Path(sys.argv[0]).name, os.getcwd(), *arguments])


def is_trust(word: str) -> bool:
    """Returns whether an override trusts modules."""
    return without_prefix(split_override(word)[0]) == "trust"


def with_trust(words: Sequence[str], trusted: Sequence[str]) -> list[str]:
    """Returns the overrides that accept risky ones: one `trust` for those that run packages, and the others repeated."""
    own = (*sys.stdlib_module_names, "torch", "alphabar")
    named = {word: {name.partition(".")[0] for name in modules_that_run(word)} for word in words}
    covered = {word: packages for word, packages in named.items() if packages and packages.isdisjoint(own)}
    packages = dict.fromkeys([*trusted, *sorted(set().union(*covered.values()))])
    return [*([f"trust=[{','.join(packages)}]"] if covered else []), *(word for word in words if word not in covered)]


def check_recorded_command(arguments: Sequence[str], given: Sequence[str], folder: str) -> None:
    """Raises UserError for risky overrides in the record of a sweep, unless this command repeats them or trusts their packages.

    A command line that the user has given before, in the same working directory, is accepted.
    arguments: those of the record. given: those of this command, which resumes the sweep in `folder`.
    """
    parser = get_args_parser()
    recorded, _ = parser.parse_known_intermixed_args(list(arguments))
    unknown = {name for name, value in vars(recorded).items() if name not in OPTIONS and value != parser.get_default(name)}
    if unknown:
        raise UserError(f"{RESUMED_SWEEP}={folder}: its record has --{min(unknown).replace('_', '-')}, which no sweep has")
    risky = risky_words(arguments)
    again = [*config_options(given), *filter(may_be_repeated, given)]
    trusted = [name.removesuffix(".") for word in again if is_trust(word) for name in modules_that_run(word)]
    missing = [word for word in risky if word not in again and not is_covered(word, trusted)]
    if missing and not is_known(_command_hash(arguments)):
        raise UserError(
            f"{RESUMED_SWEEP}={folder}: its record has {shlex.join(missing)}, which could run, fetch, write or take what is not of "
            f"the sweep; if it is yours, go on with {RESUMED_SWEEP}={folder} {shlex.join(with_trust(missing, trusted))}"
        )
    if others := [word for word in again if word not in (*risky, *arguments) and not is_trust(word)]:
        raise UserError(f"{others[0]}: a sweep goes on as it was begun, and its record does not have that")
    remember_command(arguments)
