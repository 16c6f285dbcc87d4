"""Runs a command as a job that can be stopped with all its processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from alphabar.runs.processes.parent import GRACE, PARENT
from alphabar.runs.processes.signals import STOPPING
from alphabar.runs.sweeps.sweep import SweepCommand

LINGER = 5.0  # seconds until the child processes of a job that has ended are killed


@dataclass
class Stop:
    """The first signal that asked this process to stop, or None, and the number of such signals."""

    signum: signal.Signals | None = None
    count: int = 0


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Yields a record of the signals to stop; inside, they do not end this process, but are noted for `run_job` to pass on."""
    stop = Stop()

    def note(signum: int, frame: FrameType | None) -> None:
        stop.signum = stop.signum or signal.Signals(signum)
        stop.count += 1

    before = {signum: signal.signal(signum, note) for signum in STOPPING}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def this_command() -> SweepCommand:
    """Returns the command line of this process and the folder in which it was started."""
    return SweepCommand(os.path.abspath(sys.argv[0]), sys.argv[1:], os.getcwd())


def run_job(command: Sequence[str], env: Mapping[str, str], cwd: Path, stop: Stop) -> int:
    """Runs the command in its own process group, without input; returns its exit code, or -N if signal N killed it.

    When `stop` notes a signal, the whole group is asked to stop, and is killed after GRACE seconds or at a second signal; so it is
    if this process is killed. No process of the group is left afterwards.
    """
    env = {**env, PARENT: str(os.getpid())}
    process = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, process_group=0)
    deadline = None
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.2)
            if stop.signum is not None and deadline is None:
                deadline = time.monotonic() + GRACE
                _send(process.pid, signal.SIGINT if stop.signum == signal.SIGINT else signal.SIGTERM)
            elif deadline is not None and (stop.count > 1 or time.monotonic() > deadline):
                _send(process.pid, signal.SIGKILL)
    finally:
        _end_group(process.pid, patient=deadline is None)


def _send(group: int, signum: int) -> bool:
    """Sends the signal, or none for 0, to the group; returns whether there is any process left in it."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end_group(group: int, patient: bool) -> None:
    """Waits for the rest of the group, then kills it."""
    until = time.monotonic() + (LINGER if patient else 0)
    while _send(group, 0) and time.monotonic() < until:
        time.sleep(0.05)
    _send(group, signal.SIGKILL)
