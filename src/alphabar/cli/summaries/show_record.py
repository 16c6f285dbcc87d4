"""`evaluate.py record`: the metadata of pictures, and the starts that the receipts in folders record."""

import shlex
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from alphabar.cli.composition.recorded_command import is_risky
from alphabar.errors import UserError
from alphabar.files.picture_text import cut, read_picture_text
from alphabar.runs.provenance.current_command import COMMANDS, with_invocations
from alphabar.runs.provenance.receipt import FILE_NAME, read_starts

# How commands of ours begin: python train.py, alphabar train.
BEGINNINGS = [
    (*program, f"{command}{suffix}")
    for program, suffix in ((("python",), ".py"), (("alphabar",), ""), (("python", "-m", "alphabar"), ""))
    for command in COMMANDS
]
SHOWN = ("state", "begin", "seconds", "command", "code", "code_changes", "seed", "step", "hardware")  # of a start


def record_command(arguments: Sequence[str]) -> str:
    """Returns a block of lines for each picture or receipt. Raises UserError for one without a record of alphabar."""
    parser = ArgumentParser(
        with_invocations("evaluate.py record"), description="Shows what drew a picture, or what a command did in a folder."
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, help="a picture, receipt.json, or the folder that it is in", metavar="PICTURE"
    )
    parser.error = refuse_record  # type: ignore[method-assign]
    return "\n".join(line for path in parser.parse_args(arguments).paths for line in [str(path), *record_lines(path)])


def refuse_record(message: str) -> NoReturn:
    """Raises UserError with the message."""
    raise UserError(f"record: {message}")


def record_lines(path: Path) -> list[str]:
    """Returns the lines of a picture or a receipt, which somebody else may have made."""
    if path.is_dir() or path.name == FILE_NAME:
        return [
            line
            for start in read_starts(path)
            for line in lines_of({key: start[key] for key in SHOWN if start.get(key) is not None})
        ]
    text = read_picture_text(path)
    if "Software" not in text:
        refuse_record(
            f"{path}: it says nothing of what drew it: it is not one of ours, of an earlier version, or was saved anew since"
        )
    return lines_of(text)


def lines_of(content: Mapping[str, Any]) -> list[str]:
    """Returns a line for each key, and a warning for parts of a command that could do more than draw."""
    lines = []
    for key, value in content.items():
        text = cut(str(value))
        words, beginning = command_of_ours(text) if key.lower() == "command" else ([], ())
        lines.append(f"  {key:<12} {shlex.join(words) if words else text}")
        others = [word for word, ours in zip(words, beginning, strict=False) if word != ours]  # such as /somewhere/else/train.py
        if risky := [*others, *filter(is_risky, words[len(beginning) :])]:
            lines.append(
                f"  {'careful':<12} unless it is your own: could run, fetch or write more than pictures: {shlex.join(risky)}"
            )
        elif not words and key.lower() == "command":
            lines.append(f"  {'careful':<12} this is no command of ours")
    return lines


def command_of_ours(text: str) -> tuple[list[str], tuple[str, ...]]:
    """Returns the words of an alphabar command, unquoted, and its expected first words; both are empty for any other text.

    Scripts and programs in other folders count as well.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        return [], ()
    names = tuple(Path(word).name for word in words)
    return next(((words, beginning) for beginning in BEGINNINGS if names[: len(beginning)] == beginning), ([], ()))
