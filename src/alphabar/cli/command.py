"""Entry points of the command line: from `sys.argv` to a checked configuration, and from the outcome to an exit status.

It imports only the standard library and Hydra, so that help, completion and misspelt overrides do not wait for torch.
"""

import functools
import inspect
import os
import pkgutil
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from alphabar.cli import exit_status
from alphabar.cli.arguments import parse_args, recorded_args
from alphabar.cli.composition import resolvers
from alphabar.cli.composition.complete_config import complete_config, config_as_yaml
from alphabar.cli.composition.diagnose import diagnose
from alphabar.cli.composition.hydra_app import App, accept_any_config
from alphabar.cli.composition.overrides import (
    goes_on_if_repeated,
    is_sweep,
    override_value,
    overrides_of_resumed_run,
    restore_number_formats,
    resumed_folder,
    resumed_sweep,
    split_override,
    without_prefix,
)
from alphabar.cli.composition.own_groups import warn_of_unknown_groups
from alphabar.cli.composition.preset import method_of_preset
from alphabar.cli.composition.recorded_command import may_be_repeated
from alphabar.cli.composition.unused_keys import unused_overrides
from alphabar.cli.composition.usage import group_usage, usage
from alphabar.cli.composition.user_classes import user_classes
from alphabar.cli.composition.yaml_sources import yaml_files_checked
from alphabar.cli.console import configure_logging
from alphabar.cli.summaries.sweep_summary import finish_sweeps
from alphabar.config.interpolation import unresolved_container
from alphabar.errors import UserError, printable_lines
from alphabar.files.paths import caching_in, starting_in
from alphabar.on_demand import load_torchmetrics_on_demand
from alphabar.runs.folders.run_dir import is_first_process
from alphabar.runs.processes.failures import is_first_to_tell
from alphabar.runs.processes.parent import end_with_parent
from alphabar.runs.processes.ranks import failures_noted
from alphabar.runs.processes.slurm import OutOfTime, ended_by_requeue_signals, requeue_job
from alphabar.runs.provenance.current_command import carrying_out, invocation

SEVERAL = ("logger", "statistics")  # groups of which a list may be chosen, which Hydra does not note
Main = Callable[[DictConfig], dict[str, object]]


def command(
    config_name: str, subcommands: Mapping[str, str] | None = None, check: Callable[[DictConfig], None] = accept_any_config
) -> Callable[[Main], Callable[[], NoReturn]]:
    """Returns a decorator that makes a command of a function of the configuration in `conf/<config_name>.yaml`, beside the script.

    subcommands, check: other things that the command does, and a check of its configuration; see `App`.
    The command exits with 0, 1 (a bug of ours, or a sweep with failed jobs), 2 (bad input), 130 (Ctrl-C), 143
    (SIGTERM), or 128 plus the number of another signal that asked it to stop.
    """

    def decorate(main: Main) -> Callable[[], NoReturn]:
        @functools.wraps(main)
        def start() -> NoReturn:
            folder = Path(inspect.getfile(main)).resolve().parent / "conf"
            sys.exit(execute(main, App(folder, config_name, subcommands or {}, check)))

        return start

    return decorate


def task_overrides() -> list[str]:
    """Returns the overrides of the command line, without those of Hydra's own keys."""
    return restore_number_formats(unresolved_container(HydraConfig.get().overrides.task), sys.argv[1:])  # type: ignore[arg-type]


def execute(main: Main, app: App) -> int:
    """Executes the command line and returns the exit code. An unforeseen error is raised, with its traceback.

    If a signal says, before a run listens to signals or during a sweep, that the time is over, a job of Slurm is queued again.
    """
    result, goes_on = exit_status.CommandResult(), goes_on_if_repeated(sys.argv[1:])
    with ended_by_requeue_signals():
        code = run_and_report(main, app, result)
        if isinstance(result.error, OutOfTime) and is_first_process():
            requeue_job(code - 128, goes_on)
    return code


def run_and_report(main: Main, app: App, result: exit_status.CommandResult) -> int:
    """Does what the command line says, writes and prints what came of it, and returns the exit code; see `execute`."""
    end_with_parent()
    load_torchmetrics_on_demand()
    resolvers.register()
    with failures_noted():
        outcome = run_and_conclude(main, app, result)
        is_shown = bool(os.environ.get("ALPHABAR_TRACEBACK"))
        if is_shown or not outcome.is_bug or is_first_to_tell(outcome.lines[0]):  # else another process of the run shows it
            if result.error is not None and (outcome.is_bug or is_shown):
                raise result.error
            exit_status.print_outcome(outcome)
        return outcome.code


def run_and_conclude(main: Main, app: App, result: exit_status.CommandResult) -> exit_status.Outcome:
    """Does what the command line says and writes what came of it; an error of either is in `result`, the first one counts."""
    args, typed = None, list(sys.argv)
    try:
        if (subcommand := app.subcommands.get("".join(sys.argv[1:2]))) is not None:
            print(printable_lines(pkgutil.resolve_name(subcommand)(sys.argv[2:])))
        else:
            args = parse_args()
            if (folder := resumed_sweep(args.overrides, may_be_repeated)) is not None:
                args = recorded_args(folder)
            app = app.with_options(args)
            run(main, app, args, result, typed)
    except BaseException as error:
        result.error = explain_error(error, app, args)
    outcome = exit_status.FINISHED if result.error is None else exit_status.outcome_of(result.error)
    try:
        exit_status.write_result(outcome, result.values, result.error)
        return finish_sweeps(outcome)
    except BaseException as error:  # such as a full disk, or Ctrl-C
        result.error = result.error or error
        return exit_status.outcome_of(result.error)


def run(main: Main, app: App, args: Namespace, result: exit_status.CommandResult, typed: list[str]) -> None:
    """Prints help or the configuration, or lets Hydra run `main`, a sweep, or any other request of the line that was typed."""
    if not args.shell_completion:
        configure_logging()
        warn_of_unknown_groups(app, args.overrides)
    if args.help and (words := [word for word in args.overrides if "=" not in word and word.isidentifier()]):
        print(group_usage(app, words))
        return
    if args.resolve and not args.cfg:
        raise UserError("--resolve: is for --cfg=job, which shows the configuration")
    is_shown = args.help or args.cfg
    resumed = None if is_shown or is_sweep(args) else resumed_folder(args.overrides)
    # Hydra accepts added keys that nothing uses, and it creates a sweep's folder before it reads the overrides.
    if is_sweep(args) or resumed or any(word.startswith(("+", "-", "~")) for word in args.overrides):
        raise_if_any(diagnose(app, args.overrides, is_sweep(args), resumed))
    args.overrides += method_of_preset(app, args.overrides)
    if args.help:
        print(usage(app, args.overrides))
    elif args.cfg:
        refuse_to_show(args)
        print(config_as_yaml(app, args), end="")
    else:
        changes = overrides_of_resumed_run(args.overrides, app.groups) if resumed else []
        args.overrides = [word for word in args.overrides if word not in changes]
        call_hydra(app, args, make_task(main, app, changes, result, typed))


def call_hydra(app: App, args: Namespace, task: Callable[[DictConfig], Any]) -> None:
    """Lets Hydra run the task, a sweep of it, or any other request of the command line.

    Hydra composes the configuration once to know whether it is a sweep, unless the command line tells, and again to run it.
    """
    is_request = args.info is not None or args.hydra_help or args.shell_completion
    if is_request or is_sweep(args) or app.may_set_mode():
        version.setbase("1.3")
        os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors through to us
        if args.shell_completion:  # a shell completes the words after the program that is typed
            sys.argv[0] = invocation(sys.argv[0])[0]
        with yaml_files_checked():
            _run_hydra(args, get_args_parser(), task, config_path=str(app.folder), config_name=app.name)
    else:
        with app.hydra() as hydra:
            hydra.run(app.main_name, task, [*args.overrides, "hydra.mode=RUN"])


def refuse_to_show(args: Namespace) -> None:
    """Raises UserError if `--cfg` is asked for a command that does not run the one configuration that is composed."""
    if is_sweep(args):
        raise UserError(f"--cfg={args.cfg}: shows the configuration of one job; leave out -m (--multirun) and the lists of values")
    if folder := resumed_folder(args.overrides):
        raise UserError(f"--cfg={args.cfg}: a resumed run has the configuration in {folder}/config.yaml; leave out resume")


def make_task(
    main: Main, app: App, changes: list[str], result: exit_status.CommandResult, typed: list[str]
) -> Callable[[DictConfig], Any]:
    """Returns the task function that Hydra calls: it completes and checks the configuration, calls `main`, and keeps the result.

    changes: overrides that are withheld from Hydra, since they change the configuration of the run that is resumed.
    typed: the command line that is recorded; that of a job of a sweep in this process has the job's own values.
    """

    @functools.wraps(main)
    def task(cfg: DictConfig) -> Any:
        configure_logging()
        hydra = HydraConfig.get()
        if "choices" in cfg:
            cfg.choices = group_choices(app, cfg)
        try:
            caches = str(OmegaConf.select(cfg, "paths.cache", default="outputs/cache"))
            with starting_in(hydra.runtime.cwd), caching_in(caches), user_classes(cfg):
                complete_config(cfg, app, task_overrides(), Path(hydra.runtime.output_dir))
                raise_if_any(unused_overrides(app, cfg, task_overrides(), hydra.runtime.choices))
                with read_write(hydra.overrides):  # type: ignore[arg-type]
                    hydra.overrides.task += changes
                with carrying_out(app.command_line(task_overrides()) if hydra.mode == RunMode.MULTIRUN else typed, cfg):
                    result.values.update(main(cfg) or {})
        except Exception as error:
            if hydra.mode == RunMode.MULTIRUN:  # another launcher than ours wants to see it
                raise
            result.error = error
        objective = result.values.get("objective")
        return result.values if objective is None else float(objective)  # a number is what sweepers optimise

    return task


def group_choices(app: App, cfg: DictConfig) -> dict[str, str]:
    """Returns the choice of each group that has one, without Hydra's own groups; of several, such as loggers, their names."""
    choices = HydraConfig.get().runtime.choices
    nodes = {group: cfg.get(group) for group in SEVERAL if group in app.main_groups() and group not in choices}
    given = {without_prefix(split_override(word)[0]): override_value(word) for word in task_overrides()}
    several = {group: given.get(group) or list(node) for group, node in nodes.items() if isinstance(node, DictConfig)}
    lists = {group: f"[{','.join(map(str, names))}]" for group, names in several.items() if names and isinstance(names, list)}
    return lists | {group: str(choices[group]) for group in app.groups if choices.get(group) is not None}


def explain_error(error: BaseException, app: App, args: Namespace | None) -> BaseException:
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
        return UserError(exit_status.describe_os_error(error))
    if isinstance(error, OmegaConfBaseException) and args is not None:
        return UserError(explain_interpolation(error, args.overrides))
    is_bug = isinstance(error, ValueError) and not isinstance(error, OmegaConfBaseException)
    return error if is_bug else UserError(" ".join(str(error).split()) or type(error).__name__)


def explain_interpolation(error: OmegaConfBaseException, overrides: list[str]) -> str:
    """Returns one line for an interpolation that cannot be resolved: at the overrides that have any, else where it was met."""
    keys = [without_prefix(key) for key, value in map(split_override, overrides) if "${" in (value or "")]
    return f"{', '.join(keys) or error.full_key}: {str(error).strip().splitlines()[0]}"


def raise_if_any(lines: list[str]) -> None:
    """Raises UserError with the lines if there are any."""
    if lines:
        raise UserError("\n".join(lines))
