"""The program `alphabar` of an installed package: `alphabar train ...` does what `python train.py ...` does in a checkout."""

import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from alphabar.errors import did_you_mean, printable
from alphabar.files.paths import display_path
from alphabar.runs.provenance.current_command import COMMANDS, PROGRAM, scripts_folder

MODULE = "python -m alphabar"
COMPLETION = {"-sc", "--shell-completion"}  # options of Hydra
USAGE = """Diffusion models as experiments that you can run, change and compare.

  {program} train       trains a model; without further words: on digits, minutes on a CPU
  {program} sample      draws images from a checkpoint, or edits images with it
  {program} evaluate    measures a checkpoint or any images; compare, report and record show what is there
  {program} prepare     decodes images once into one file, from which training reads them at no cost

{program} COMMAND --help says how. Results go to outputs/ in the folder in which a command is started."""


def run_program(program: str | None = None) -> NoReturn:
    """Runs the script of the command that `sys.argv` names, with the words after it, and exits as that does.

    program: how a shell calls this program; None: by its name or, if it is not on the PATH, by its path.
    """
    program = program or _name_or_path()
    words = sys.argv[1:] if COMPLETION.isdisjoint(sys.argv[1:2]) else _completed_words()
    if not words or words[0] in ("--help", "-h"):
        print(USAGE.format(program=program))
        sys.exit()
    command, *arguments = words
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS) or f". There are: {', '.join(COMMANDS)}"
        print(printable(f"error: {program} {command}: there is no such command{hint}"), file=sys.stderr)
        sys.exit(2)
    os.environ[PROGRAM] = program
    sys.argv[1:] = arguments
    runpy.run_path(str(scripts_folder() / f"{command}.py"), run_name="__main__")
    sys.exit()


def _name_or_path() -> str:
    """Returns what a shell calls this program by."""
    path = Path(sys.argv[0]).absolute()
    found = shutil.which(path.name)
    if found and Path(found).resolve() == path.resolve():
        return path.name
    shown = display_path(path)
    return shlex.quote(shown if "/" in shown else f"./{shown}")


def _completed_words() -> list[str]:
    """Returns the words that complete a line such as `alphabar train sched`, and leaves Hydra a line without the command.

    Prints the commands that begin as the line does if it has no whole one, and exits.
    """
    _, _, line = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
    command, space, rest = line.lstrip().partition(" ")
    if space and command in COMMANDS:
        os.environ["COMP_LINE"] = f"{Path(sys.argv[0]).name} {rest}"
        return [command, *sys.argv[1:]]
    print(*(name for name in COMMANDS if not space and name.startswith(command)))
    sys.exit()
