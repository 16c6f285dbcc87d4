"""Numbers that are known of an image, such as attributes or what a regression predicts, as its condition."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.models.conditioners import Conditioner


class Vector(Conditioner):
    """The condition is a small network of the standardised vector: MLP((v - mean) / std), or a learned null condition.

    mean and std are those of each number over the training images, measured once and kept in checkpoints. A prompt is a vector as
    text, "0.3, 1.2".

    length: D, how many numbers a vector has. channels: the length of the condition. dropout: the share of training images that get
    the null condition. Raises ValueError unless length, channels >= 1 and 0 <= dropout <= 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, length: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        if length < 1 or channels < 1:
            raise ValueError(f"need length >= 1 and channels >= 1, got length={length}, channels={channels}")
        self.length = length
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("std", torch.ones(length))
        self.layers = nn.Sequential(nn.Linear(length, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.null_condition = nn.Parameter(torch.zeros(channels))

    @property
    def vector_length(self) -> int:
        return self.length

    @property
    def depicts(self) -> Literal["label", "caption", "vector"] | None:
        return "vector"

    def attach_vectors(self, vectors: Tensor | None) -> None:
        if vectors is None:
            raise ValueError("conditioner=vector needs images with vectors, and these data have none")
        self._must_fit(vectors.shape[1])
        wide = vectors.double()
        std = wide.std(0, correction=0)
        self.mean.copy_(wide.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        if "vector" not in batch:
            raise ValueError("conditioner=vector needs images with vectors, and these data have none")
        self._must_fit(batch["vector"].shape[1])
        made = self._condition(batch["vector"])
        if self.training:
            dropped = share.rand(len(made), made.device) < self.dropout
            made = torch.where(dropped[:, None], self.null_condition, made)
        return {"vector": made}

    def null(self, num: int) -> Cond:
        return {"vector": self.null_condition.expand(num, -1)}

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        return {"vector": self._condition(torch.tensor([self._numbers(prompt) for prompt in prompts]))}

    def _condition(self, vectors: Tensor) -> Tensor:
        return self.layers((vectors.to(self.mean.device, torch.float32) - self.mean) / self.std)

    def _numbers(self, prompt: str) -> list[float]:
        """Returns the numbers of a vector as text. Raises ValueError unless there are D of them, all finite."""
        try:
            numbers = [float(part) for part in prompt.replace(",", " ").split()]
        except ValueError as error:
            raise ValueError(f"need {self.length} numbers, got {prompt[:60]!r}") from error
        if len(numbers) != self.length or not all(map(math.isfinite, numbers)):
            raise ValueError(f"need {self.length} finite numbers, as in training, got {prompt[:60]}")
        return numbers

    def _must_fit(self, length: int) -> None:
        if length != self.length:
            raise ValueError(f"need vectors of {self.length} numbers, as in training, got {length}")
