"""The validation hooks, on which stock callbacks of Lightning act."""

import logging

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from alphabar.errors import did_you_mean
from alphabar.training.callbacks import RunCallback
from alphabar.training.hooks import base_module
from alphabar.training.modules.base import BaseModule
from alphabar.training.optimization.lr_schedules import PlateauScheduler

log = logging.getLogger(__name__)
TRAINING = "train/"  # the prefix of the figures of training steps


class ValidationHooks(RunCallback):
    """Calls the validation hooks of all callbacks after figures were measured, since a run has no validation loop.

    A callback with a `monitor` is called only when that figure is new, so that the patience of EarlyStopping and of
    lr_scheduler=plateau counts measurements; figures that other callbacks log with `pl_module.log` are such, too. The others are
    called after every measurement of the run on held-out images or samples. It comes after the callbacks that measure and before
    those that write checkpoints, which so contain the new state of all callbacks.
    A resumed run that EarlyStopping had ended ends at once, unless its patience was raised.
    """

    def __init__(self) -> None:
        self.missed: set[str] = set()  # monitored figures for which a warning was given
        self.patience: dict[EarlyStopping, int] = {}  # as configured; Lightning restores that of the checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.patience = {each: each.patience for each in callbacks_of(trainer) if isinstance(each, EarlyStopping)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = base_module(pl_module)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in module.figures.items()})
        for callback, patience in self.patience.items():
            callback.patience = patience
            if callback.wait_count >= patience:
                trainer.should_stop = True
                self._tell(trainer, f"patience={patience} was over before: {callback.stopping_reason_message}")
        self._validate(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self._validate(trainer, base_module(pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validate(trainer, base_module(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validate(trainer, base_module(pl_module))
        self._tell_of_missing(trainer)

    def _validate(self, trainer: Trainer, module: BaseModule) -> None:
        measured, logged = module.new_figures, module.newly_logged
        if not (measured or logged):
            return
        module.new_figures, module.newly_logged = set(), set()
        is_measurement = not all(name.startswith(TRAINING) for name in measured)
        if is_measurement:
            self._tell_of_missing(trainer)
        for scheduler in plateaus_of(trainer):
            if (monitor := scheduler.rule.monitor) in measured:
                scheduler.measure(module.figures[monitor])
            elif monitor in logged:  # perhaps not the same on all ranks
                scheduler.measure(trainer.strategy.broadcast(float(trainer.callback_metrics[monitor])))
        monitors = {callback: monitored(callback) for callback in callbacks_of(trainer)}
        new = measured | logged | ({None} if is_measurement else set())
        callbacks = [callback for callback, monitor in monitors.items() if monitor in new]
        for hook in ("on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end", "on_validation_end"):
            for callback in callbacks:
                getattr(callback, hook)(trainer, module)
        for callback in callbacks:
            if trainer.should_stop and isinstance(callback, EarlyStopping) and callback.stopping_reason_message is not None:
                self._tell(trainer, callback.stopping_reason_message)

    def _tell_of_missing(self, trainer: Trainer) -> None:
        watchers: list[tuple[object, str | None]] = [(callback, monitored(callback)) for callback in callbacks_of(trainer)]
        watchers += [(scheduler, scheduler.rule.monitor) for scheduler in plateaus_of(trainer)]
        known = sorted(trainer.callback_metrics)
        for watcher, monitor in watchers:
            if monitor is not None and monitor not in self.missed and monitor not in known:
                self.missed.add(monitor)
                hint = did_you_mean(monitor, known) or f"; so far there are: {', '.join(known)}"
                self._tell(trainer, f"{type(watcher).__name__} waits for monitor={monitor}, which has not been measured{hint}")

    def _tell(self, trainer: Trainer, line: str) -> None:
        if trainer.is_global_zero:
            log.warning("step %d: %s", trainer.global_step, line)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Returns the callbacks of the trainer in the order in which it calls them."""
    return trainer.callbacks  # type: ignore[attr-defined]


def plateaus_of(trainer: Trainer) -> list[PlateauScheduler]:
    """Returns the schedulers of the trainer that act on a figure."""
    return [config.scheduler for config in trainer.lr_scheduler_configs if isinstance(config.scheduler, PlateauScheduler)]


def monitored(callback: Callback) -> str | None:
    """Returns the name of the figure that a stock callback watches, or None if it watches none."""
    return callback.monitor if isinstance(callback, EarlyStopping | ModelCheckpoint) else None
