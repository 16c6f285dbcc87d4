"""The learning rate over the steps of a run."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from alphabar.errors import UserError


@dataclass(frozen=True)
class LRSchedule(ABC):
    """The factor of the optimizer's `lr` at each step, counted from 0, with linear warm-up.

    It is a function of the step alone, so that resuming is exact and a skipped step does not shift it.
    warmup_steps: the number of steps in which the factor rises linearly from 0. Raises ValueError if negative.
    """

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"need warmup_steps >= 0, got warmup_steps={self.warmup_steps}")

    @property
    def follows_the_run(self) -> bool:
        """Returns whether `factor` depends on when the run ends."""
        return False

    @abstractmethod
    def factor(self, step: int, end: int) -> float:
        """Returns the factor without warm-up. end: the number of steps of the run."""

    def warmup(self, step: int) -> float:
        """Returns the factor of warm-up."""
        return 1.0 if self.warmup_steps == 0 else min(1.0, (step + 1) / self.warmup_steps)

    def scheduler(self, optimizer: Optimizer, end: int) -> LambdaLR | None:
        """Returns torch's scheduler, whose state is the step alone; None if the learning rate is constant."""
        return LambdaLR(optimizer, lambda step: self.warmup(step) * self.factor(step, end))


MakeLRScheduler = Callable[[Optimizer], LRScheduler]


def make_scheduler(schedule: LRSchedule | MakeLRScheduler | None, optimizer: Optimizer, trainer: Trainer) -> LRScheduler | None:
    """Returns the scheduler of an optimizer, or None for a constant learning rate.

    Raises UserError for a schedule that depends on the end of a run without a fixed number of steps, and for torch's
    ReduceLROnPlateau.
    """
    if not isinstance(schedule, LRSchedule):
        made = None if schedule is None else schedule(optimizer)
        if isinstance(made, ReduceLROnPlateau):
            raise UserError("lr_scheduler: ReduceLROnPlateau gets no figure here: choose lr_scheduler=plateau")
        return made
    end = trainer.estimated_stepping_batches if schedule.follows_the_run else 0
    if not math.isfinite(end):
        raise UserError("lr_scheduler: nobody knows when this run ends: set lr_scheduler.num_steps=..., or trainer.max_steps=...")
    return schedule.scheduler(optimizer, int(end))


@dataclass(frozen=True)
class ConstantRate(LRSchedule):
    """A learning rate that stays the same after warm-up."""

    def factor(self, step: int, end: int) -> float:
        return 1.0

    def scheduler(self, optimizer: Optimizer, end: int) -> LambdaLR | None:
        return None if self.warmup_steps == 0 else super().scheduler(optimizer, end)


@dataclass(frozen=True)
class Decay(LRSchedule):
    """A learning rate that decays from its value after warm-up to `final_factor` times that.

    num_steps: the step at which the decay ends; None: the end of the run.
    Raises ValueError unless 0 <= final_factor <= 1 and num_steps > warmup_steps.
    """

    num_steps: int | None = None
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final_factor <= 1:
            raise ValueError(f"need 0 <= final_factor <= 1, got final_factor={self.final_factor}")
        if self.num_steps is not None and self.num_steps <= self.warmup_steps:
            raise ValueError(f"need num_steps > warmup_steps={self.warmup_steps}, got num_steps={self.num_steps}")

    @property
    def follows_the_run(self) -> bool:
        return self.num_steps is None

    def factor(self, step: int, end: int) -> float:
        length = (self.num_steps or end) - self.warmup_steps
        progress = min(max((step - self.warmup_steps) / max(length, 1), 0.0), 1.0)
        return self.final_factor + (1 - self.final_factor) * self.remainder(progress)

    @abstractmethod
    def remainder(self, progress: float) -> float:
        """Returns the decay, from 1 to 0, at a progress of 0..1."""


@dataclass(frozen=True)
class CosineRate(Decay):
    """Cosine decay, (1 + cos(pi * progress)) / 2; Loshchilov & Hutter 2017, without restarts."""

    def remainder(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class LinearRate(Decay):
    """Linear decay, 1 - progress."""

    def remainder(self, progress: float) -> float:
        return 1 - progress


@dataclass(frozen=True)
class InverseSqrtRate(LRSchedule):
    """A learning rate that falls as 1 / sqrt(max(step / reference_steps, 1)); Karras et al. 2024 (EDM2), eq. 67.

    Raises ValueError unless reference_steps >= 1.
    """

    reference_steps: int = 70000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_steps < 1:
            raise ValueError(f"need reference_steps >= 1, got reference_steps={self.reference_steps}")

    def factor(self, step: int, end: int) -> float:
        return 1 / math.sqrt(max(step / self.reference_steps, 1.0))


@dataclass(frozen=True)
class StepRate(LRSchedule):
    """A learning rate that falls as gamma^floor(step / step_size).

    Raises ValueError unless step_size >= 1 and 0 < gamma <= 1.
    """

    step_size: int = 10000
    gamma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size < 1 or not 0 < self.gamma <= 1:
            raise ValueError(f"need step_size >= 1 and 0 < gamma <= 1, got step_size={self.step_size}, gamma={self.gamma}")

    def factor(self, step: int, end: int) -> float:
        return self.gamma ** (step // self.step_size)


@dataclass(frozen=True)
class PlateauRate(LRSchedule):
    """A learning rate that is multiplied by `gamma` after more than `patience` measurements of a figure without improvement.

    monitor: the name of the figure; lower is better. threshold: the relative improvement that counts as one. min_factor: the lower
    bound of the factor. Raises ValueError unless 0 < gamma < 1, patience >= 0 and 0 <= min_factor <= 1.
    """

    monitor: str = "held_out/loss"
    gamma: float = 0.5
    patience: int = 3
    threshold: float = 1e-4
    min_factor: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < 1 or self.patience < 0 or not 0 <= self.min_factor <= 1:
            got = f"gamma={self.gamma}, patience={self.patience}, min_factor={self.min_factor}"
            raise ValueError(f"need 0 < gamma < 1, patience >= 0 and 0 <= min_factor <= 1, got {got}")

    def factor(self, step: int, end: int) -> float:
        return 1.0

    def scheduler(self, optimizer: Optimizer, end: int) -> LambdaLR | None:
        return PlateauScheduler(optimizer, self)


class PlateauScheduler(LambdaLR):
    """The scheduler of a `PlateauRate`, whose state has the measurements so far, but not the settings."""

    def __init__(self, optimizer: Optimizer, rule: PlateauRate) -> None:
        self.rule = rule
        self.scale = 1.0
        self.best = -1.0  # the lowest of num_measured values; without meaning if there are none
        self.num_measured = self.num_worse = 0
        super().__init__(optimizer, lambda step: rule.warmup(step) * self.scale)

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "rule"}

    def measure(self, value: float) -> None:
        """Records a new value of the figure and sets the learning rate of the next step; NaN is no improvement."""
        is_better = self.num_measured == 0 or value < self.best - self.rule.threshold * abs(self.best)
        self.best = value if is_better else self.best
        self.num_worse = 0 if is_better else self.num_worse + 1
        self.num_measured += 1
        if self.num_worse > self.rule.patience:
            self.num_worse = 0
            self.scale = max(self.scale * self.rule.gamma, self.rule.min_factor)
        set_rates(self)


def set_rates(scheduler: LambdaLR) -> None:
    """Sets the learning rates of the next step to `base_lrs` times the factors of the scheduler."""
    for group, base, factor in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
