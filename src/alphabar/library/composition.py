"""The configuration that a command line would compose, in a program of one's own."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from alphabar.cli import exit_status
from alphabar.cli.command import Main, explain_error, run
from alphabar.cli.composition import resolvers
from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.overrides import null_as_deletion, quote_text_value
from alphabar.cli.console import messages_shown
from alphabar.errors import UserError
from alphabar.runs.folders.run_dir import begin_another_run, locks_released
from alphabar.runs.provenance.current_command import scripts_folder


def run_command(command: str, main: Main, overrides: Sequence[str], config_dir: str | Path | None = None) -> dict[str, object]:
    """Returns what `main` returns for the configuration of a command with these overrides.

    Nothing of the process is changed for good: neither its folder, its logging and its warnings, nor Hydra's state.
    Raises UserError for bad input, and KeyboardInterrupt if Ctrl-C stopped it.
    """
    app, args = parsed(command, overrides, config_dir)
    result = exit_status.CommandResult()
    begin_another_run()
    with messages_shown(), locks_released(), errors_explained(app, args):
        app = app.with_options(args)
        run(main, app, args, result, app.command_line(args.overrides))
        if result.error is not None:
            raise result.error
    return result.values


def compose(command: str, overrides: Sequence[str]) -> DictConfig:
    """Returns the configuration of a command with these overrides, of which nothing is built. Raises UserError for bad input."""
    app, args = parsed(command, overrides, None)
    with errors_explained(app, args):
        return app.compose(args.overrides)


def parsed(command: str, overrides: Sequence[str], config_dir: str | Path | None) -> tuple[App, Namespace]:
    """Returns the app of a command, and what Hydra's parser would make of the overrides.

    Raises UserError for an option, since there is no command line, or for one text in place of a list.
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides: need a list, such as [{overrides!r}], got one text")
    if options := [word for word in overrides if word.startswith("-") or word.partition("=")[0] in ("hydra.mode", "sweep.resume")]:
        raise UserError(f"{options[0]}: is for the command line; here one run is composed, of overrides such as schedule=cosine")
    args = get_args_parser().parse_args([])
    args.overrides = [quote_text_value(null_as_deletion(word)) for word in overrides]
    args.config_dir = None if config_dir is None else str(config_dir)
    resolvers.register()
    return App(scripts_folder() / "conf", command), args


@contextmanager
def errors_explained(app: App, args: Namespace) -> Iterator[None]:
    """Raises UserError with the lines that the command line would print in the place of an error that the user can correct."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit(1)
            raise KeyboardInterrupt from error
        explained = explain_error(error, app, args)
        if isinstance(explained, UserError) and explained is error:
            raise
        lines = exit_status.user_error_lines(explained) or filter(None, [exit_status.dead_worker_line(explained)])
        if text := "\n".join(lines):
            raise UserError(text) from error
        raise
