"""The command line in the record of a sweep, which somebody else may have written."""

import re
import shlex
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser

from alphabar.cli.overrides import RESUMED_SWEEP, config_options, split_override, without_prefix
from alphabar.errors import UserError

# Keys of Hydra's own that choose nothing but the jobs; others name classes, folders of YAML files and variables of the environment.
KEYS_OF_JOBS = ("hydra.mode", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.sweeper.params", "hydra/sweeper", "hydra/launcher")
RESOLVER = re.compile(r"\$\{(?![\w.]+\})")  # an interpolation that is not of another key: ${oc.env:NAME}, or one inside another
OPTIONS = ("overrides", "multirun", "config_name", "config_path", "config_dir")


def is_risky(word: str) -> bool:
    """Returns whether an override can do more than set a value: name a class, call a resolver, change Hydra, or lead elsewhere."""
    key, value = split_override(word)
    key = without_prefix(key)
    if RESOLVER.search(word) or "_target_" in word:
        return True
    if key == "hydra.sweep.subdir":
        return (value or "").strip("'\"").startswith("/") or ".." in (value or "")
    return key.partition(".")[0].partition("/")[0] == "hydra" and not key.startswith(KEYS_OF_JOBS)


def check_recorded_command(arguments: Sequence[str], given: Sequence[str], folder: str) -> None:
    """Raises UserError unless the command line in a sweep's record sets values alone, but for words that are given once more.

    arguments: of the record. given: those of this command, which goes on with the sweep in `folder`.
    """
    parser = get_args_parser()
    recorded, _ = parser.parse_known_intermixed_args(list(arguments))
    unknown = {name for name, value in vars(recorded).items() if name not in OPTIONS and value != parser.get_default(name)}
    if unknown:
        raise UserError(f"{RESUMED_SWEEP}={folder}: its record has --{min(unknown).replace('_', '-')}, which no sweep has")
    risky = [*config_options(arguments), *filter(is_risky, arguments)]
    again = [*config_options(given), *filter(is_risky, given)]
    if missing := [word for word in risky if word not in again]:
        words = shlex.join(missing)
        raise UserError(
            f"{RESUMED_SWEEP}={folder}: its record has {words}, which could run or read what is not of the sweep; if it is yours, "
            f"go on with {RESUMED_SWEEP}={folder} {words}"
        )
    if others := [word for word in again if word not in risky]:
        raise UserError(f"{others[0]}: a sweep goes on as it was begun, and its record does not have that")
