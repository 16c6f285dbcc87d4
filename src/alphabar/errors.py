"""The exception for mistakes of the user, as opposed to bugs, and that for bugs in other processes."""

import traceback
from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input (config, file, checkpoint, dataset); the message is one line that the command line prints as it is."""


class WorkerError(RuntimeError):
    """An unforeseen error in another process; the message says what and where, `traceback` is the text that tells of its cause."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message, traceback)  # both, since it is pickled on its way
        self.traceback = traceback

    def __str__(self) -> str:
        return str(self.args[0])


def traceback_of(error: BaseException) -> str:
    """Returns the traceback of an error as text: for a WorkerError that of the other process, without how it came here."""
    return error.traceback if isinstance(error, WorkerError) else "".join(traceback.format_exception(error)).rstrip()


class DataNotFound(UserError):
    """Data that are not where they should be; `problem` says so without the advice, which names a key of a run that begins."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}{advice}")
        self.problem = problem


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ". Did you mean X?" with the known name that is nearest to a mistyped one; an empty text if none is similar."""
    return next((f". Did you mean {nearest}?" for nearest in get_close_matches(name, list(known), n=1)), "")


def printable(text: str) -> str:
    """Returns a line with every character that is not printable as an escape: "\\x1b[2J" cannot clear the screen.

    Names in files, which somebody else may have chosen, reach the terminal so. Lone surrogates, which file names that are no UTF-8
    have, can be printed then.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def printable_lines(text: str) -> str:
    """Returns a text of several lines, each as `printable` returns it."""
    return "\n".join(map(printable, text.split("\n")))


Advice = Mapping[type[ValueError], str]


def advised(error: ValueError, advice: Advice) -> str:
    """Returns the message of an error, followed by the advice for its class if `advice` has one."""
    return f"{error}: {advice[type(error)]}" if type(error) in advice else str(error)
