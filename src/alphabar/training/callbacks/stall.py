"""Ends a run that stands still."""

import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.files.atomic import WriteError, atomic_writer
from alphabar.files.paths import display_path
from alphabar.runs.processes.distributed import rank_and_size
from alphabar.runs.processes.failures import is_first_to_tell, is_told
from alphabar.runs.processes.ranks import end_now
from alphabar.training.callbacks import RunCallback
from alphabar.training.callbacks.stopping import STOP_SIGNALS
from alphabar.training.hooks import image_data

STEP, DATA, OTHERS = "in a training step", "waiting for a batch of the data", "in a training step, waiting for another process"
CALLBACK = "in a callback"
LOOKS = 20  # at the run in `stall_seconds`
DUMP_SECONDS = 10.0  # that the stacks may take to be written
PRECEDENCE = 1.25  # the factor by which a process that waits for others is more patient, so that they speak first

Place = tuple[tuple[CodeType, int], ...]  # in the code: that of each frame of the main thread


class StallWatch(RunCallback):
    """Ends the process if a training step, or the wait for a batch, takes longer than `stall_seconds`, and says in a line which.

    Other callbacks, and the loggers that they call, may take as long as they need for samples, figures and checkpoints, if they get
    on. One that begins no further batch (see `interruptible`), and is at the same place of its code at every look, for
    `stall_seconds`, ends the process, too, unless it waits for other processes.

    A thread looks from time to time; a step only notes what it does. The Python stacks of all threads are in `stalled_rank_N.txt`.

    Raises UserError unless stall_seconds > 0.
    """

    def __init__(self, stall_seconds: float) -> None:
        if not stall_seconds > 0:
            raise UserError(f"stall_seconds={stall_seconds}: need a number of seconds > 0, or null for no limit")
        self.stall_seconds = stall_seconds
        self.num_started = 0
        self.is_in_step = False
        self.is_over = threading.Event()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_over.clear()
        arguments = (image_data(trainer), Path(trainer.default_root_dir), rank_and_size())
        threading.Thread(target=self._watch, args=arguments, daemon=True, name="stall-watch").start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.num_started += 1
        self.is_in_step = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.is_in_step = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.is_over.set()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.is_in_step = False
        self.is_over.set()

    def _watch(self, data: ImageDataModule, folder: Path, ranks: tuple[int, int]) -> None:
        """Looks whether the run goes on, until it is over."""
        seen, since = self._state(data), time.monotonic()
        while not self.is_over.wait(self.stall_seconds / LOOKS):
            state, seconds = self._state(data), time.monotonic() - since
            activity = state[0]
            if state != seen:
                seen, since = state, time.monotonic()
            elif seconds > self.stall_seconds:
                if activity != DATA and ranks[1] > 1 and is_in_collective():
                    if activity == CALLBACK or seconds <= self.stall_seconds * PRECEDENCE:
                        continue
                    activity = OTHERS
                self._end(f"{activity}{callback_at_work()}" if activity == CALLBACK else activity, folder, ranks)

    def _state(self, data: ImageDataModule) -> tuple[str, int, int, Place]:
        """Returns what the run does, and what changes as it gets on."""
        activity = DATA if data.is_reading else STEP if self.is_in_step else CALLBACK
        place = tuple((frame.f_code, frame.f_lasti) for frame in main_frames()) if activity == CALLBACK else ()
        return activity, self.num_started, STOP_SIGNALS.num_asked, place

    def _end(self, activity: str, folder: Path, ranks: tuple[int, int]) -> None:
        """Prints who stands still in what, writes the stacks down if that is possible, and ends the process in any case.

        The disk may be what does not answer.
        """
        rank, world_size = ranks
        path = folder / f"stalled_rank_{rank}.txt"
        limit = threading.Timer(DUMP_SECONDS, end_now, (1,))
        limit.daemon = True
        limit.start()
        who = f"rank {rank}" if world_size > 1 else "the run"
        where = f"where: {display_path(path)}; stall_seconds=null waits for ever"
        line = f"{who} has stood still for {self.stall_seconds:g} s {activity}; {where}"
        try:
            if not (world_size > 1 and is_told()) and is_first_to_tell(line):
                print(f"error: {line}", file=sys.stderr, flush=True)
            with atomic_writer(path) as file:
                faulthandler.dump_traceback(file, all_threads=True)
        except WriteError as error:
            print(f"error: cannot write {display_path(path)}: {error.strerror}", file=sys.stderr, flush=True)
        finally:
            limit.cancel()
            end_now(1)


def is_in_collective() -> bool:
    """Returns whether the main thread may be waiting for other processes: it synchronises a module, or the gradients."""
    paths = (frame.f_code.co_filename.replace("\\", "/") for frame in main_frames())
    ends = "torch/autograd/graph.py", "torch/nn/parallel/distributed.py"
    return any("torch/distributed/" in path or path.endswith(ends) for path in paths)


def main_frames() -> Iterator[FrameType]:
    """Yields the frames of the main thread, the innermost first."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        yield frame
        frame = frame.f_back


def callback_at_work() -> str:
    """Returns ", " and the class and method of the callback or logger in which the main thread is; nothing if it is in none."""
    for frame in main_frames():
        if isinstance(owner := frame.f_locals.get("self"), Callback | Logger):
            return f", {type(owner).__name__}.{frame.f_code.co_name}"
    return ""
