"""The arguments of a command, typed or from the record of a sweep, parsed with Hydra's own parser."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from alphabar.cli.composition.overrides import (
    null_as_deletion,
    quote_text_value,
    quoted,
    repair_lightning_quotes,
    split_override,
    without_prefix,
)
from alphabar.cli.composition.recorded_command import check_recorded_command, is_trust
from alphabar.cli.processes import this_command
from alphabar.errors import UserError
from alphabar.runs.provenance.current_command import PROGRAM
from alphabar.runs.sweeps.sweep_record import read_record, reopen_sweep


def parse_args() -> Namespace:
    """Parses the command line with Hydra's own parser and returns the result; options may stand anywhere.

    Reorders `sys.argv` so that Hydra and processes that are started later can read it. Raises UserError for invalid options.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    words = [quote_text_value(null_as_deletion(word)) for word in repair_lightning_quotes(sys.argv[1:])]
    args, unknown = parser.parse_known_intermixed_args(words)
    args.overrides += unknown
    options = [word for word in words if word not in args.overrides]
    sys.argv[1:] = [*options, *args.overrides]
    if args.config_path and "://" not in args.config_path and PROGRAM in os.environ:  # a script's is relative to the script
        args.config_path = os.path.abspath(args.config_path)
    return args


def recorded_args(folder: str) -> Namespace:
    """Reopens the sweep in the folder and returns the parsed command line that began it.

    Raises UserError if the sweep cannot be resumed, or its record is refused by `check_recorded_command`.
    """
    recorded = read_record(Path(folder).absolute()).command
    assert recorded is not None
    check_recorded_command(recorded.arguments, sys.argv[1:], folder)
    sweep = reopen_sweep(Path(folder), this_command())
    sweep.trust = [word for word in sys.argv[1:] if is_trust(word)]
    if sweep.command != recorded:
        raise UserError(f"sweep.resume={folder}: its record has changed since it was checked; repeat the command")
    words = [word for word in recorded.arguments if without_prefix(split_override(word)[0]) != "hydra.sweep.dir"]
    sys.argv[1:] = [*words, f"hydra.sweep.dir={quoted(str(Path(folder).absolute()))}"]
    return parse_args()
