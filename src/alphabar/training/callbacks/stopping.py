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
    """Records SIGINT and SIGTERM; the same signal a second time acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def listen(self) -> None:
        """Installs the signal handlers; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)

    def release(self) -> None:
        """Restores the earlier signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.release()
        if rank_and_size()[0] == 0:
            print("\nstopping after this step, with a checkpoint; once more stops at once", file=sys.stderr, flush=True)

    def agreed_signal(self, device: torch.device) -> int | None:
        """Returns the signal that any process has received, or None; all processes call it."""
        if rank_and_size()[1] == 1:
            return self.received
        number = torch.tensor(self.received or 0, device=device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number) or None


def stop(number: int) -> None:
    """Raises KeyboardInterrupt for SIGINT and SIGTERMException for SIGTERM."""
    if number == signal.SIGTERM:
        raise SIGTERMException
    raise KeyboardInterrupt
