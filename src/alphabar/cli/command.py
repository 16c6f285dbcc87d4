"""The command line: this module turns `sys.argv` into a checked configuration, and the end of the command into an exit code.

It imports only the standard library and Hydra, so that help, completion and misspelt overrides do not wait for torch.
"""

import functools
import importlib
import inspect
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, read_write
from omegaconf.errors import OmegaConfBaseException

from alphabar.cli import exit_status, resolvers
from alphabar.cli.complete_config import complete, config_as_yaml
from alphabar.cli.console import configure_logging
from alphabar.cli.diagnose import diagnose
from alphabar.cli.hydra_app import App, accept
from alphabar.cli.overrides import as_swept, dropped, for_resumed_run, requoted, resumed_folder, text_quoted
from alphabar.cli.sweep_summary import finish_sweeps
from alphabar.cli.unused_keys import unused
from alphabar.cli.usage import group_usage, usage
from alphabar.config.interpolation import written
from alphabar.errors import UserError
from alphabar.files.paths import starting_in

Main = Callable[[DictConfig], dict[str, object]]


def command(
    config_name: str, verbs: Mapping[str, str] | None = None, check: Callable[[DictConfig], None] = accept
) -> Callable[[Main], Callable[[], NoReturn]]:
    """Returns a decorator that makes a command of a function of the configuration in `conf/<config_name>.yaml`, beside the script.

    verbs, check: first words of a command line after which no configuration follows, and a check of other ones; see `App`.

    The command exits with 0, 1 (a bug of ours, or a sweep with failed jobs), 2 (bad input), 130 (Ctrl-C) or 143 (SIGTERM).
    """

    def decorate(main: Main) -> Callable[[], NoReturn]:
        @functools.wraps(main)
        def start() -> NoReturn:
            folder = Path(inspect.getfile(main)).resolve().parent / "conf"
            sys.exit(execute(main, App(folder, config_name, verbs or {}, check)))

        return start

    return decorate


def task_overrides() -> list[str]:
    """Returns the words of the command line, without those that are Hydra's own."""
    return as_swept(written(HydraConfig.get().overrides.task), sys.argv[1:])  # type: ignore[arg-type]


def execute(main: Main, app: App) -> int:
    """Executes the command line and returns the exit code. An unforeseen error is raised, with its traceback."""
    resolvers.register()
    exit_status.prepare()
    job = Job()
    args = None
    try:
        if (verb := app.verbs.get("".join(sys.argv[1:2]))) is not None:
            print(importlib.import_module(verb).main(sys.argv[2:]))
        else:
            args = parse_args()
            app = app.with_options(args)
            run(main, app, args, job)
    except BaseException as error:
        job.error = explained(error, app, args)
    ending = exit_status.FINISHED if job.error is None else exit_status.ending_of(job.error)
    exit_status.hand_over(ending, job.result, job.error)
    ending = finish_sweeps(ending)
    if job.error is not None and (ending.is_bug or os.environ.get("ALPHABAR_TRACEBACK")):
        raise job.error
    exit_status.say(ending)
    return ending.code


@dataclass
class Job:
    """The result of `main`, and the error that ended the command, if one did.

    An error of `main` does not pass through Hydra, which would print it in its own format.
    """

    result: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None


def parse_args() -> Namespace:
    """Parses the command line with Hydra's own parser and returns the result; options may stand anywhere.

    Reorders `sys.argv` so that Hydra and processes that are started later can read it. Raises UserError for invalid options.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    words = [text_quoted(dropped(word)) for word in requoted(sys.argv[1:])]
    args, unknown = parser.parse_known_intermixed_args(words)
    args.overrides += unknown
    options = [word for word in words if word not in args.overrides]
    sys.argv[1:] = [*options, *args.overrides]
    return args


def is_sweep(args: Namespace) -> bool:
    """Returns whether the command line asks for a sweep."""
    return args.multirun or "hydra.mode=MULTIRUN" in args.overrides


def run(main: Main, app: App, args: Namespace, job: Job) -> None:
    """Prints help or the configuration, or lets Hydra run `main`, a sweep, or any other request of the command line."""
    if args.help and (words := [word for word in args.overrides if "=" not in word and word.isidentifier()]):
        print(group_usage(app, words))
        return
    is_shown = args.help or args.cfg
    resumed = None if is_shown or is_sweep(args) else resumed_folder(args.overrides)
    # Hydra accepts added keys that nothing uses, and it creates a sweep's folder before it reads the overrides.
    if is_sweep(args) or resumed or any(word.startswith(("+", "-", "~")) for word in args.overrides):
        raise_if_any(diagnose(app, args.overrides, is_sweep(args), resumed))
    if args.help:
        print(usage(app, args.overrides))
    elif args.cfg:
        print(config_as_yaml(app, args), end="")
    else:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors through to us
        changes = for_resumed_run(args.overrides, app.groups()) if resumed else []
        args.overrides = [word for word in args.overrides if word not in changes]
        version.setbase("1.3")
        task = make_task(main, app, changes, job)
        _run_hydra(args, get_args_parser(), task, config_path=str(app.folder), config_name=app.name)


def make_task(main: Main, app: App, changes: list[str], job: Job) -> Callable[[DictConfig], Any]:
    """Returns the task function that Hydra calls: it completes and checks the configuration, calls `main`, and keeps the result.

    changes: overrides that are withheld from Hydra, since they change the configuration of the run that is resumed.
    """

    @functools.wraps(main)
    def task(cfg: DictConfig) -> Any:
        configure_logging()
        hydra = HydraConfig.get()
        if "choices" in cfg:
            cfg.choices = chosen(app)
        try:
            with starting_in(hydra.runtime.cwd):
                complete(cfg, app, task_overrides(), Path(hydra.runtime.output_dir))
                raise_if_any(unused(app, cfg, task_overrides(), hydra.runtime.choices))
                with read_write(hydra.overrides):  # type: ignore[arg-type]
                    hydra.overrides.task += changes
                job.result.update(main(cfg) or {})
        except Exception as error:
            if hydra.mode == RunMode.MULTIRUN:  # another launcher than ours wants to see it
                raise
            job.error = error
        objective = job.result.get("objective")
        return job.result if objective is None else float(objective)  # a number is what sweepers optimise

    return task


def chosen(app: App) -> dict[str, str]:
    """Returns the choice of each group that has one, without Hydra's own groups."""
    choices = HydraConfig.get().runtime.choices
    return {group: str(choices[group]) for group in app.groups() if choices.get(group) is not None}


def explained(error: BaseException, app: App, args: Namespace | None) -> BaseException:
    """Returns the error, or a UserError that explains it if it was raised outside `main` and the user can correct it.

    args: the parsed command line; None if it could not be parsed.
    """
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError | OSError):
        return error
    if isinstance(error, BrokenPipeError):  # the reader has seen enough, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SystemExit(128 + signal.SIGPIPE)
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, UserError):  # perhaps a resolver's
            return link
        link = link.__cause__ or link.__context__
    if args is not None and (lines := diagnose(app, args.overrides, is_sweep(args))):
        return UserError("\n".join(lines))
    if isinstance(error, OSError):
        return UserError(exit_status.describe(error))
    return error if isinstance(error, ValueError) else UserError(" ".join(str(error).split()) or type(error).__name__)


def raise_if_any(lines: list[str]) -> None:
    """Raises UserError with the lines if there are any."""
    if lines:
        raise UserError("\n".join(lines))
