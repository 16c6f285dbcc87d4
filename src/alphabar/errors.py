"""The one exception that stands for a mistake of the user's, not of ours."""


class UserError(ValueError):
    """Bad input (config, file, checkpoint, dataset); the message is one line that the command line prints as it is."""
