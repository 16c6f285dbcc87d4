"""Signals that ask a run to stop: after the step, with a checkpoint; before training, or at a second signal, at once."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch

from alphabar.runs.processes.distributed import rank_and_size
from alphabar.runs.processes.ranks import end_now, expect_end
from alphabar.runs.processes.signals import STOPPING
from alphabar.runs.processes.slurm import OF_A_SWEEP

T = TypeVar("T")
PATIENCE = 10.0  # seconds until a process ends that was to stop before training, and is still waiting for something
SAME_SIGNAL = 0.2  # seconds within which a signal that comes twice is one: closing a terminal sends two
PASSED_ON = 5.0  # seconds within which all signals to a job of a sweep are one: its launcher passes on what Slurm sends to all


class Interrupted(Exception):
    """An exception that ends a measurement or a drawing when a signal asks the run to stop; the resumed run repeats it."""


class StopSignals:
    """Records the signals to stop that this process receives, and ends it at the second one.

    While the run trains, the first is recorded for the end of the step; before, it raises SystemExit(128 + number), or
    KeyboardInterrupt. Python calls handlers in the main thread only, and only between instructions; so a second thread receives
    each signal as well, and ends a process whose main thread waits in a collective operation.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.num_asked = 0  # how often something long has asked whether to go on
        self._is_deferred = False
        self._ends_process = True
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @contextmanager
    def listening(self, ends_process: bool = True) -> Iterator[None]:
        """Installs the handlers inside the context, unless it is entered in another than the main thread.

        ends_process: whether a second signal, or a run that does not end in time, ends the process; False: the second signal raises
        the exception of a signal before training, for a process that has more to do than this run.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.received, self._is_deferred, self._ends_process = None, False, ends_process
        is_over = threading.Event()
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                self._before[number] = signal.signal(number, self._receive)
        wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading, is_over), daemon=True, name="stop-signals").start()
        try:
            yield
        finally:
            is_over.set()
            signal.set_wakeup_fd(wakeup_before)
            self._restore()
            os.close(writing)

    def defer(self) -> None:
        """Lets a signal wait for the end of the step from now on."""
        self._is_deferred = True

    def act_at_once(self) -> None:
        """Lets a signal end the run at once from now on."""
        self._is_deferred = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first = self.received is None
        self.received = self.received or number
        if not self._is_deferred or not (is_first or self._ends_process):
            stop(number)
        if is_first and rank_and_size()[0] == 0:
            print("\nstopping after this step, with a checkpoint; once more stops at once", file=sys.stderr, flush=True)

    def _watch(self, reading: int, is_over: threading.Event) -> None:
        """Receives every signal, whatever the main thread does; ends with the context."""
        first = None
        with open(reading, "rb", buffering=0) as pipe:
            while numbers := pipe.read(1):
                number, now = numbers[0], time.monotonic()
                if number not in STOPPING or not self._ends_process:
                    continue
                if first is None:
                    first = number, now
                    if not self._is_deferred:
                        threading.Thread(target=_end_unless, args=(is_over, number), daemon=True).start()
                elif not is_same(first, (number, now)):
                    end_now(128 + number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def forget(self) -> None:
        """Restores the usual handlers in a forked process, such as a worker that decodes, which ends with its parent."""
        if self._before:
            signal.set_wakeup_fd(-1)
            self._restore()

    def agreed_signal(self, device: torch.device) -> int | None:
        """Returns the signal that any process has received, or None; all processes call it."""
        if rank_and_size()[1] == 1:
            return self.received
        number = torch.tensor(self.received or 0, device=device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number) or None

    def interrupt(self, device: torch.device) -> None:
        """Raises Interrupted if any process has received a signal; all processes call it, as between two batches of samples."""
        self.num_asked += 1
        if self.agreed_signal(device) is not None:
            raise Interrupted


STOP_SIGNALS = StopSignals()  # those of this process
os.register_at_fork(after_in_child=STOP_SIGNALS.forget)


def is_same(first: tuple[int, float], other: tuple[int, float]) -> bool:
    """Returns whether two signals, each with the time at which it came, are one that was sent twice."""
    if OF_A_SWEEP in os.environ:
        return other[1] - first[1] <= PASSED_ON
    return other[0] == first[0] and other[1] - first[1] <= SAME_SIGNAL


def interruptible(parts: Iterable[T], num: int, device: torch.device) -> Iterator[T]:
    """Yields this process's `parts` of something long, before each of which all processes agree whether to go on.

    num: the number of parts of the process that has most of them. Raises Interrupted on all processes at once.
    """
    rest = iter(parts)
    for _ in range(num):
        STOP_SIGNALS.interrupt(device)
        yield from islice(rest, 1)


def stop(number: int) -> NoReturn:
    """Raises KeyboardInterrupt for SIGINT and SystemExit(128 + number) for any other signal."""
    expect_end()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _end_unless(is_over: threading.Event, number: int) -> None:
    """Ends this process after PATIENCE seconds, unless the run is over by then."""
    if not is_over.wait(PATIENCE):
        end_now(128 + number)
