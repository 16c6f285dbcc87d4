"""Ends a run that stands still."""

import faulthandler
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.files.paths import display_path
from alphabar.runs.distributed import rank_and_size
from alphabar.runs.failures import is_first_to_tell, is_told
from alphabar.training.callbacks import RunCallback
from alphabar.training.callbacks.stopping import end_now
from alphabar.training.hooks import image_data

STEP, DATA, OTHERS = "in a training step", "waiting for a batch of the data", "in a training step, waiting for another process"
LOOKS = 20  # at the run in `stall_seconds`
PRECEDENCE = 1.25  # the factor by which a process that waits for others is more patient, so that they speak first


class StallWatch(RunCallback):
    """Ends the process if a training step, or the wait for a batch, takes longer than `stall_seconds`, and says in a line which.

    A thread looks from time to time; a step only notes what it does. Other callbacks may take as long as they like: samples,
    figures and checkpoints. The Python stacks of all threads are in `stalled_rank_N.txt`.

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

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.is_in_step = False
        self.is_over.set()

    def _watch(self, data: ImageDataModule, folder: Path, ranks: tuple[int, int]) -> None:
        """Looks whether the run goes on, until it is over."""
        seen, since = ("", 0), time.monotonic()
        while not self.is_over.wait(self.stall_seconds / LOOKS):
            activity = DATA if data.is_reading else STEP if self.is_in_step else ""
            seconds = time.monotonic() - since
            if (activity, self.num_started) != seen:
                seen, since = (activity, self.num_started), time.monotonic()
            elif activity and seconds > self.stall_seconds:
                if activity == STEP and ranks[1] > 1 and is_in_collective():
                    if seconds <= self.stall_seconds * PRECEDENCE:
                        continue
                    activity = OTHERS
                self._end(activity, folder, ranks)

    def _end(self, activity: str, folder: Path, ranks: tuple[int, int]) -> None:
        """Prints who stands still in what, and ends the process."""
        rank, world_size = ranks
        path = folder / f"stalled_rank_{rank}.txt"
        with path.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        who = f"rank {rank}" if world_size > 1 else "the run"
        where = f"where: {display_path(path)}; stall_seconds=null waits for ever"
        line = f"{who} has stood still for {self.stall_seconds:g} s {activity}; {where}"
        if not (world_size > 1 and is_told()) and is_first_to_tell(line):
            print(f"error: {line}", file=sys.stderr, flush=True)
        end_now(1)


def is_in_collective() -> bool:
    """Returns whether the main thread may be waiting for other processes: it synchronises a module, or the gradients."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        path = frame.f_code.co_filename.replace("\\", "/")
        if "torch/distributed/" in path or path.endswith(("torch/autograd/graph.py", "torch/nn/parallel/distributed.py")):
            return True
        frame = frame.f_back
    return False
