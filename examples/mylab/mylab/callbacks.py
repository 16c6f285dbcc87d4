"""A callback: one of Lightning, as anywhere."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class WeightNorm(Callback):
    """Logs the norm of all weights, by which one sees a model that runs away."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        norms = torch.stack([weight.detach().norm() for weight in pl_module.parameters()])
        pl_module.log("train/weight_norm", norms.norm())
