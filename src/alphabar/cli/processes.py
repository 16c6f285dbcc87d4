"""Running a command as a job that can be stopped as a whole."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 30.0  # seconds that a job has to end by itself: a large checkpoint may be under way
LINGER = 5.0  # seconds that the processes a job started have after it


@dataclass
class Stop:
    """The signal that asked this process to stop, if any did, and how often."""

    signum: signal.Signals | None = None
    count: int = 0


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, a signal to stop does not end this process at once, but is noted, for `run_job` to pass on."""
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


def run_job(command: Sequence[str], env: Mapping[str, str], cwd: Path, stop: Stop) -> int:
    """Runs the command in a process group of its own, without input; returns its exit code, -N if signal N killed it.

    If `stop` comes, the whole group gets the signal, and is killed after GRACE seconds or at a second signal. Nothing of the group
    is left afterwards.
    """
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
        _end(process.pid, patient=deadline is None)


def _send(group: int, signum: signal.Signals) -> bool:
    """Whether there is anybody left in the group."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end(group: int, patient: bool) -> None:
    """Waits for the rest of the group, then kills it."""
    until = time.monotonic() + (LINGER if patient else 0)
    while _alive(group) and time.monotonic() < until:
        time.sleep(0.05)
    _send(group, signal.SIGKILL)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
