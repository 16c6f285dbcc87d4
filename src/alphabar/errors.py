"""The exception for mistakes of the user, as opposed to bugs."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input (config, file, checkpoint, dataset); the message is one line that the command line prints as it is."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ". Did you mean X?" with the known name that is nearest to a mistyped one; an empty text if none is similar."""
    return next((f". Did you mean {nearest}?" for nearest in get_close_matches(name, list(known), n=1)), "")


Advice = Mapping[type[ValueError], str]


def advised(error: ValueError, advice: Advice) -> str:
    """Returns the message of an error, followed by the advice for its class if `advice` has one."""
    return f"{error}: {advice[type(error)]}" if type(error) in advice else str(error)
