"""The signals that ask a process to stop, and the names of all."""

import signal

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def signal_name(number: int) -> str:
    """Returns the name of a signal, such as SIGKILL; "signal 40" for one that has none, such as most real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
