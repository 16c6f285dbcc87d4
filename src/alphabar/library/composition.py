"""Runs a command from Python with the configuration that its command line would compose."""

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

    Afterwards the working directory, logging, warnings and Hydra's state are as before.
    Raises UserError for bad input, and KeyboardInterrupt after Ctrl-C.
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
    """Returns the configuration of a command with these overrides; builds nothing. Raises UserError for bad input."""
    app, args = parsed(command, overrides, None)
    with errors_explained(app, args):
        return app.compose(args.overrides)


def parsed(command: str, overrides: Sequence[str], config_dir: str | Path | None) -> tuple[App, Namespace]:
    """Returns the app of a command, and the overrides as Hydra's parser would return them.

    Raises UserError for an option of the command line, or for a text in place of the list.
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides: need a list, such as [{overrides!r}], got one text")
    if not isinstance(overrides, Sequence) or not all(isinstance(word, str) for word in overrides):
        raise UserError(f"overrides: need a list of texts, such as ['schedule=cosine'], got {overrides!r}")
    if options := [word for word in overrides if word.startswith("-") or word.partition("=")[0] in ("hydra.mode", "sweep.resume")]:
        raise UserError(f"{options[0]}: is for the command line; here one run is composed, of overrides such as schedule=cosine")
    args = get_args_parser().parse_args([])
    args.overrides = [quote_text_value(null_as_deletion(word)) for word in overrides]
    args.config_dir = None if config_dir is None else str(config_dir)
    resolvers.register()
    return App(scripts_folder() / "conf", command), args


@contextmanager
def errors_explained(app: App, args: Namespace) -> Iterator[None]:
    """Replaces an error that the user can correct by a UserError with the message that the command line would print."""
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
