"""The one exception that stands for a mistake of the user's, not of ours."""

from collections.abc import Mapping


class UserError(ValueError):
    """Bad input (config, file, checkpoint, dataset); the message is one line that the command line prints as it is."""


Advice = Mapping[type[ValueError], str]


def advised(error: ValueError, advice: Advice) -> str:
    """Returns the message of an error with what to choose instead, which `advice` gives for its class; else the message alone."""
    return f"{error}: {advice[type(error)]}" if type(error) in advice else str(error)
