"""Figures that callbacks of others log with `pl_module.log`, of which Lightning writes those of every so many steps alone."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from torch import Tensor

from alphabar.training.hooks import base_module
from alphabar.training.loggers.log_helpers import write_figures


class StepFigures(Callback):
    """Writes figures of other callbacks at the optimizer step at which they are logged, and reports all of them as new.

    A figure that was logged at each of the last `trainer.log_every_n_steps` steps is written at every so many steps only, and at
    the end. Figures of epochs are written at the last step of each. It stands after the callbacks that log.
    """

    def __init__(self) -> None:
        self.step = 0  # the newest one, of several batches where gradients are accumulated: the first value of a step counts
        self.since: dict[str, int] = {}  # the first of the unbroken series of steps at which a figure was logged, to the newest
        self.since_before: dict[str, int] = {}  # the same, to the step before
        self.withheld: dict[str, Tensor] = {}  # the values of the newest step that are not written

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes and reports what was logged since the batch before."""
        if not trainer._results:
            return
        if trainer.global_step != self.step:
            self.step, self.since_before, self.since, self.withheld = trainer.global_step, self.since, {}, {}
        values, names = take_new_figures(trainer, trainer._results, on_step=True)
        new = names - self.since.keys()
        self.since.update({name: self.since_before.get(name, self.step) for name in new})
        base_module(pl_module).newly_logged.update(new)
        values = {name: value for name, value in values.items() if name in new}
        self.withheld.update({name: value for name, value in values.items() if not self._is_due(trainer, name)})
        self._write(trainer, {name: value for name, value in values.items() if self._is_due(trainer, name)})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and reports the figures of the epoch, for which Lightning would give the step before the last."""
        if trainer._results:
            values, names = take_new_figures(trainer, trainer._results, on_step=False)
            base_module(pl_module).newly_logged.update(names)
            self._write(trainer, values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the figures of the last step that are not written yet."""
        self._write(trainer, self.withheld)
        self.withheld = {}

    def _is_due(self, trainer: Trainer, name: str) -> bool:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.step - self.since[name] < every or self.step % every == 0)

    def _write(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        if values:
            figures = {name: float(value) for name, value in values.items()}
            base_module(trainer.lightning_module).figures.update(figures)
            write_figures(trainer, figures)


def take_new_figures(trainer: Trainer, results: _ResultCollection, on_step: bool) -> tuple[dict[str, Tensor], set[str]]:
    """Returns the values for loggers of the figures of steps, or of the epoch, that were logged anew, and the names of all of them.

    They become callback_metrics of the Trainer, and Lightning does not write them any more.
    """
    metrics = results.metrics(on_step)
    trainer.callback_metrics.update(metrics["callback"])
    trainer.progress_bar_metrics.update(metrics["pbar"])
    names = {result.meta.forked_name(on_step) for result in results.values() if result.meta.name in metrics["callback"]}
    for result in results.values():
        if on_step:
            result._forward_cache = None
        else:
            result.has_reset = True
    return metrics["log"], names
