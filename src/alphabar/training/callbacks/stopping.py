"""Ctrl-C and SIGTERM: stop after this step, not in the middle of it."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from alphabar.runs.distributed import rank_and_size


class StopSignals:
    """Remembers that a signal came; the same signal a second time acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def listen(self) -> None:
        """Starts to; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)

    def release(self) -> None:
        """Gives signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.release()
        if rank_and_size()[0] == 0:
            print("\nstopping after this step, with a checkpoint; once more stops at once", file=sys.stderr, flush=True)

    def agreed(self, device: torch.device) -> int | None:
        """The signal that any process has received; all of them call it."""
        if rank_and_size()[1] == 1:
            return self.received
        number = torch.tensor(self.received or 0, device=device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number) or None


def stop(number: int) -> None:
    """Raises what ends a run that was told to stop."""
    if number == signal.SIGTERM:
        raise SIGTERMException
    raise KeyboardInterrupt
