"""The class of an image as its condition."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.errors import did_you_mean
from alphabar.models.conditioners import Conditioner

MAX_NAMED = 10


class ClassLabel(Conditioner):
    """The condition is a learned vector for each class, with one more vector for the null condition.

    num_classes: K; labels are 0..K - 1. channels: the length of a vector. dropout: the share of training images that get the null
    condition. names: those of the classes, which are prompts like their numbers; None: they have none.
    Raises ValueError unless num_classes, channels >= 1 and 0 <= dropout <= 1, and unless there are K names, if there are any.
    """

    def __init__(self, num_classes: int, channels: int, dropout: float = 0.1, names: Sequence[str] | None = None) -> None:
        super().__init__(dropout)
        if num_classes < 1 or channels < 1:
            raise ValueError(f"need num_classes >= 1 and channels >= 1, got num_classes={num_classes}, channels={channels}")
        if names is not None and len(names) != num_classes:
            raise ValueError(f"need as many names as classes, got {len(names)} names, num_classes={num_classes}")
        self.num_classes = num_classes
        self.names = list(map(str, range(num_classes))) if names is None else list(names)
        self.table = nn.Embedding(num_classes + 1, channels)

    @property
    def classes(self) -> Sequence[str]:
        return self.names

    @property
    def depicts(self) -> Literal["label", "caption", "vector"] | None:
        return "label"

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        if "label" not in batch:
            raise ValueError("conditioner=class_label needs images with classes, and these data have none")
        labels = batch["label"].to(self.table.weight.device)
        return {"vector": self.table(torch.where(self.dropped(len(labels), labels.device, share), self.num_classes, labels))}

    def null(self, num: int) -> Cond:
        return {"vector": self.table.weight[self.num_classes].expand(num, -1)}

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        labels = [self._label(prompt) for prompt in prompts]
        return {"vector": self.table(torch.tensor(labels, device=self.table.weight.device))}

    def _label(self, prompt: str) -> int:
        """Returns the class of a name or, unless a class is called so, of a number."""
        if prompt in self.names:
            return self.names.index(prompt)
        if prompt.isdecimal() and int(prompt) < self.num_classes:
            return int(prompt)
        has_names = any(not name.isdecimal() for name in self.names)
        known = f" or {', '.join(self.names[:MAX_NAMED])}{', ...' * (self.num_classes > MAX_NAMED)}" if has_names else ""
        raise ValueError(f"need labels 0..{self.num_classes - 1}{known}, got {prompt}{did_you_mean(prompt, self.names)}")
