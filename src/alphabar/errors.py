"""The exception for mistakes of the user, as opposed to bugs."""

from collections.abc import Mapping


class UserError(ValueError):
    """Bad input (config, file, checkpoint, dataset); the message is one line that the command line prints as it is."""


Advice = Mapping[type[ValueError], str]


def advised(error: ValueError, advice: Advice) -> str:
    """Returns the message of an error, followed by the advice for its class if `advice` has one."""
    return f"{error}: {advice[type(error)]}" if type(error) in advice else str(error)
