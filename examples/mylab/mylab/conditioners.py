"""Conditioners: from what is known of an image to what the network reads beside the noise level."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.models.conditioners import Conditioner, VectorConditioner


class Waves(VectorConditioner):
    """Each number by the sines and cosines of four frequencies, from which networks tell close ones apart."""

    def __init__(self, length: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__(length, channels, dropout)
        self.layer = nn.Linear(8 * length, channels)

    def embed(self, vectors: Tensor) -> Tensor:
        angles = (vectors[:, :, None] * 2.0 ** torch.arange(4, device=vectors.device)).flatten(1)
        return self.layer(torch.cat([angles.sin(), angles.cos()], 1))


class OneHot(Conditioner):
    """The class of an image as a vector of zeros with a 1 at its place; the null condition is all zeros."""

    rows: Tensor

    def __init__(self, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        self.num_classes = num_classes
        self.register_buffer("rows", torch.eye(num_classes + 1, num_classes))  # the last row is the null condition

    @property
    def classes(self) -> Sequence[str]:
        return [str(label) for label in range(self.num_classes)]

    @property
    def depicts(self) -> Literal["label", "caption", "vector"] | None:
        return "label"

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        labels = batch["label"]
        dropped = self.dropped(len(labels), labels.device, share)  # a tenth of them in training, drawn from `share`
        return {"vector": self.rows[torch.where(dropped, self.num_classes, labels)]}

    def null(self, num: int) -> Cond:
        return {"vector": self.rows[-1].expand(num, -1)}

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        return {"vector": self.rows[[self.classes.index(prompt) for prompt in prompts]]}
