"""How well a run uses its hardware: MFU, memory, and the shares of its time that waiting and evaluation take."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from alphabar.data.loading.loader import ImageLoader
from alphabar.runs.processes.distributed import from_first, max_over_ranks
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.flops import compute_dtype, peak_rate
from alphabar.training.hooks import base_module, log_every_n_steps
from alphabar.training.loggers.log_helpers import log_figures

MB = 2**20


class SpeedFigures(Recurring):
    """Logs, every `trainer.log_every_n_steps` optimizer steps and at the end, of the slowest process where there are several:

    train/mfu: images per second * FLOPs per image / (peak FLOP/s * devices), the model FLOPs utilization of Chowdhery et al. 2022,
        app. B, since the row before. FLOPs are those of the products and convolutions of forward and backward pass, also of what a
        network computes again in the backward pass; the peak is that of the run's precision, see `peak_rate`. Left out where FLOPs
        are not known.
    train/peak_memory_mb: the most memory in MiB that the process has had: allocated by torch on a GPU of CUDA, else resident.
    train/waiting_for_data: seconds of waiting for batches / seconds outside evaluation, since the beginning of the run.
    train/evaluating: seconds of evaluation (samples, figures, the film) / all seconds, since the beginning of the run.

    It stands after the callbacks that train, log and evaluate.
    """

    def __init__(self) -> None:
        super().__init__(every_n_steps=1)  # the Trainer says how many: see `interval`
        self.totals = {"seconds": 0.0, "waiting": 0.0, "evaluating": 0.0}  # also before the run was resumed
        self.seen = dict.fromkeys(self.totals, 0.0)  # what the clocks of this process said when they were added
        self.peak = 0.0  # FLOP/s of all devices

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self.totals}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.totals = {name: float(state_dict.get(name, 0.0)) for name in self.totals}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.seen = self._clocks(trainer, pl_module) | {"waiting": 0.0}  # that of the loader which the run will make

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        peak = peak_rate(device, compute_dtype(trainer)).flops
        self.peak = from_first(lambda: peak) * trainer.world_size
        super().on_train_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Acts in any case, since other callbacks have evaluated after the last step."""
        self.act_now(trainer, pl_module, is_last=True)

    def interval(self, trainer: Trainer) -> int:
        return log_every_n_steps(trainer)

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        module, clocks = base_module(pl_module), self._clocks(trainer, pl_module)
        since = [clocks[name] - self.seen[name] for name in self.totals]
        *since, memory = max_over_ranks(torch.tensor([*since, peak_memory(module.device)], device=module.device)).tolist()
        self.seen = clocks
        self.totals = {name: self.totals[name] + seconds for name, seconds in zip(self.totals, since, strict=True)}
        seconds, waiting, evaluating = self.totals.values()
        figures = {"train/peak_memory_mb": memory} if memory > 0 else {}
        if module.flops_per_image is not None and (rate := module.figures.get("train/images_per_second")) is not None:
            figures["train/mfu"] = rate * module.flops_per_image / self.peak
        if evaluating < seconds:
            figures["train/waiting_for_data"] = waiting / (seconds - evaluating)
            figures["train/evaluating"] = evaluating / seconds
        log_figures(trainer, figures)

    def _clocks(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        loader = trainer.train_dataloader
        waiting = loader.seconds_waiting if isinstance(loader, ImageLoader) else 0.0
        return {"seconds": time.perf_counter(), "waiting": waiting, "evaluating": base_module(pl_module).seconds_evaluating}


def peak_memory(device: torch.device) -> float:
    """Returns the most MiB that torch has allocated on a GPU of CUDA or, on other devices, that were resident; 0 if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    try:
        import resource  # not everywhere
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB
