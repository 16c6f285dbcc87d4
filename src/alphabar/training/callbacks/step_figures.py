"""Figures that callbacks of others log with `pl_module.log`, of which Lightning writes those of every so many steps alone."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from alphabar.training.loggers.log_helpers import log_figures


class StepFigures(Callback):
    """Writes figures of other callbacks at the step at which they are logged; it stands after these.

    A figure that is logged at every step is written every `trainer.log_every_n_steps` steps, which Lightning does, and at the end.
    """

    def __init__(self) -> None:
        self.known: dict[str, Tensor] = {}  # the newest value of each figure: that of a later call is another object
        self.latest: set[str] = set()  # the figures that were logged at the step before
        self.withheld: dict[str, Tensor] = {}  # the values of this step that are not written

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes what was logged at this step and not at the one before."""
        if not trainer._results:
            return
        before, self.latest, self.withheld = self.latest, set(), {}
        is_due = trainer._logger_connector.should_update_logs
        new: dict[str, float] = {}
        for key, result in trainer._results.items():
            value = result._forward_cache
            if not (result.meta.on_step and result.meta.logger and isinstance(value, Tensor)):
                continue
            if value is self.known.get(key):
                result._forward_cache = None  # Lightning would write it once more, as that of a later step
                continue
            self.known[key] = value
            self.latest.add(key)
            name = result.meta.forked_name(on_step=True)
            if is_due:
                continue
            if key in before:
                self.withheld[name] = value
            else:
                new[name] = float(value)
        if new:
            log_figures(trainer, new)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the figures of the last step that are not written yet."""
        if self.withheld:
            log_figures(trainer, {name: float(value) for name, value in self.withheld.items()})
            self.withheld = {}
