"""The times of steps in a run of train.py."""

import time
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer


class StepTimes(Callback):
    """Notes when the first step of this process began and when the last one ended; what was done between them counts.

    first_step: as `time.time()`. begin, end: as `time.perf_counter()`.
    """

    first_step: ClassVar[float] = 0.0
    begin: ClassVar[float] = 0.0
    end: ClassVar[float] = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if StepTimes.first_step == 0.0:
            StepTimes.first_step, StepTimes.begin = time.time(), time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        StepTimes.end = time.perf_counter()
