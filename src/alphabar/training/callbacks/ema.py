"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor

from alphabar.errors import UserError


class EMA(Callback):
    """shadow <- shadow + (1 - d_n) * (weights - shadow) after optimizer step n, d_n = min(decay, (1 + n) / (10 + n)).

    The shadow is float32, of the trainable parameters only: a schedule's buffers are not averaged. It is kept in checkpoints under
    the key "ema"; `state_dict` always holds the live weights. Weights are swapped only inside `applied`, whose end, by whatever
    way, brings the live ones back.

    Raises ValueError unless 0 <= decay < 1.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"need 0 <= decay < 1, got decay={decay}")
        self.decay = decay
        self.num_updates = 0
        self.shadow: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, FSDPStrategy):
            raise UserError("ema: sharded parameters (FSDP) cannot be averaged; use trainer.strategy=ddp or callbacks.ema=null")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.shadow:
            self.shadow = {name: weight.detach().float().clone() for name, weight in trainable(pl_module).items()}
        self.shadow = {name: average.to(pl_module.device) for name, average in self.shadow.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.num_updates:  # a batch that only accumulated gradients
            return
        self.num_updates = trainer.global_step
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        weights = [weight.float() for weight in trainable(pl_module).values()]
        torch._foreach_lerp_(list(self.shadow.values()), weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self, pl_module: LightningModule) -> Iterator[None]:
        """Inside, the module's parameters are the averages; the live weights before the first update."""
        if self.num_updates == 0:
            yield
            return
        weights = trainable(pl_module)
        live = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            copy_into(weights, self.shadow)
            yield
        finally:
            copy_into(weights, live)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = {"num_updates": self.num_updates, "weights": self.shadow}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "ema" not in checkpoint:
            raise UserError("ema: the checkpoint has no averaged weights; resume with callbacks.ema=null")
        if checkpoint["ema"]["weights"].keys() != trainable(pl_module).keys():
            raise UserError("ema: the averaged weights in the checkpoint belong to another network")
        self.num_updates = checkpoint["ema"]["num_updates"]
        self.shadow = {name: average.clone() for name, average in checkpoint["ema"]["weights"].items()}


def trainable(pl_module: LightningModule) -> dict[str, Tensor]:
    """The parameters that training changes, by name."""
    return {name: weight for name, weight in pl_module.named_parameters() if weight.requires_grad}


@torch.no_grad()
def copy_into(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Copies in place, so that compiled and distributed networks keep their storage."""
    for name, weight in weights.items():
        weight.copy_(values[name])


def averaged(trainer: Trainer, pl_module: LightningModule) -> AbstractContextManager[None]:
    """The context in which the module's weights are those to judge: the averages if the run keeps any."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    ema = next((callback for callback in callbacks if isinstance(callback, EMA)), None)
    return ema.applied(pl_module) if ema is not None else nullcontext()
