"""The further processes of a run, its ranks from 1 on: they end with the first one, and it ends with them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, NoReturn, Protocol

from alphabar.runs.processes.failures import is_first_to_tell, is_told, remove_error_folder, set_error_folder
from alphabar.runs.processes.parent import PARENT
from alphabar.runs.processes.signals import signal_name

PERIOD = 0.2  # seconds between two looks at the ranks
MEETING = 300.0  # seconds that a process waits for the others at the start of a run
PATIENCE = 5.0  # seconds that the first process has to end by itself after another one failed
_is_ending = threading.Event()
_ranks: list[subprocess.Popen[bytes]] = []  # those that this process has started


class RankLauncher(Protocol):
    """A launcher of Lightning's Trainer or of its Fabric, as far as they agree."""

    procs: list[subprocess.Popen[bytes]]

    def _call_children_scripts(self) -> None: ...


class FailedRank(NamedTuple):
    """A process of a run that has ended before the others: its rank, and its exit code, -N if signal N killed it."""

    rank: int
    code: int

    @property
    def exit_code(self) -> int:
        """The exit code that the run takes from it."""
        return self.code if self.code > 0 else 1

    def __str__(self) -> str:
        how = f"was killed by {signal_name(-self.code)}" if self.code < 0 else f"ended with exit code {self.code}"
        return f"rank {self.rank} {how}"


def watch_ranks(launcher: RankLauncher) -> None:
    """Makes the processes that `launcher` will start end with this one, however it ends, and this one with the first that fails.

    It takes the place of Lightning's own watch, which kills everything within five seconds, without a word.
    """
    start = launcher._call_children_scripts

    def start_and_watch() -> None:
        os.environ[PARENT] = str(os.getpid())
        try:
            start()
        finally:
            del os.environ[PARENT]
        _ranks[:], launcher.procs = launcher.procs, []
        threading.Thread(target=_watch, args=(list(_ranks),), daemon=True, name="rank-watch").start()

    launcher._call_children_scripts = start_and_watch  # type: ignore[method-assign]


@contextmanager
def meeting(rank: int, seconds: float = MEETING) -> Iterator[None]:
    """Ends this process, with a line, if the processes of the run take longer inside the context to meet.

    torch waits half an hour for one that torchrun or Slurm has started, and that has died since.
    """
    timer = threading.Timer(seconds, _give_up, (rank, seconds))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(rank: int, seconds: float) -> None:
    line = f"rank {rank} has waited {seconds:g} s for the other processes of the run to start"
    if not is_told() and is_first_to_tell(line):
        print(f"error: {line}", file=sys.stderr, flush=True)
    end_now(1)


def expect_end() -> None:
    """Tells the watch that all processes end now, so that it lets this one finish in its own time."""
    _is_ending.set()


@contextmanager
def failures_noted() -> Iterator[None]:
    """Lets the processes of a run know inside the context what others have printed; at its end they all have."""
    set_error_folder()
    try:
        yield
    finally:
        end_ranks()
        remove_error_folder()


def end_ranks() -> None:
    """Waits until the processes that this one has started have ended and found what was told, if anything was.

    Kills them after PATIENCE seconds, as the end of this process would.
    """
    if not is_told():
        return
    expect_end()
    until = time.monotonic() + PATIENCE
    while any(rank.poll() is None for rank in _ranks) and time.monotonic() < until:
        time.sleep(PERIOD / 4)
    for rank in _ranks:
        rank.kill()


def end_now(code: int) -> NoReturn:
    """Ends this process from any of its threads, without waiting for anything, and all that it has started."""
    for process in (*multiprocessing.active_children(), *_ranks):
        process.kill()
    remove_error_folder()
    os._exit(code)


def failed_rank() -> FailedRank | None:
    """Returns the rank that this process has started and that failed; None if none does within PATIENCE seconds.

    A process that has started none is killed meanwhile if its parent has ended.
    """
    until = time.monotonic() + PATIENCE
    while (found := _first_failed(_ranks)) is None and time.monotonic() < until and (_ranks or not is_told()):
        time.sleep(PERIOD / 4)
    return found


def _first_failed(ranks: Sequence[subprocess.Popen[bytes]]) -> FailedRank | None:
    ends = [FailedRank(index + 1, code) for index, rank in enumerate(ranks) if (code := rank.poll())]
    return min(ends, key=lambda end: end.code != -signal.SIGKILL, default=None)


def _watch(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends this process if a rank fails and this one does not notice, as in a collective operation that waits for it."""
    while (failed := _first_failed(ranks)) is None:
        if all(rank.poll() == 0 for rank in ranks):
            return
        time.sleep(PERIOD)
    if _is_ending.wait(PATIENCE):
        return
    if not is_told() and is_first_to_tell(str(failed)):
        print(f"error: {failed}", file=sys.stderr, flush=True)
    end_now(failed.exit_code)
