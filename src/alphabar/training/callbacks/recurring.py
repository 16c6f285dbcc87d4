"""What is done again and again during training."""

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.training.hooks import due


class Recurring(Callback, ABC):
    """Acts every so many optimizer steps and at the end, once at each of these steps, in a resumed run too.

    Who checks `every_n_steps` >= 1 is who names it in a message.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.last_step = -1

    @abstractmethod
    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        """is_last: whether training ends here."""

    def act_now(self, trainer: Trainer, pl_module: LightningModule, is_last: bool = False) -> None:
        """Acts, and takes note of it."""
        self.last_step = trainer.global_step
        self.act(trainer, pl_module, is_last)

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_step = state_dict["last_step"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if due(trainer, self.every_n_steps, self.last_step):
            self.act_now(trainer, pl_module, is_last=trainer.global_step == trainer.max_steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.last_step != trainer.global_step:  # ended by max_epochs or max_time
            self.act_now(trainer, pl_module, is_last=True)
