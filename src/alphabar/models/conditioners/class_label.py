"""Classes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond
from alphabar.models.conditioners import Conditioner


class ClassLabel(Conditioner):
    """A learned vector for each class, and one more for images of which nothing is told.

    num_classes: K; labels are 0..K - 1. channels: of the vectors. dropout: the share of training images that are told nothing.
    Raises ValueError unless num_classes, channels >= 1 and 0 <= dropout <= 1.
    """

    def __init__(self, num_classes: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        if num_classes < 1 or channels < 1:
            raise ValueError(f"need num_classes >= 1 and channels >= 1, got num_classes={num_classes}, channels={channels}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"need 0 <= dropout <= 1, got dropout={dropout}")
        self.num_classes = num_classes
        self.dropout = dropout
        self.table = nn.Embedding(num_classes + 1, channels)

    @property
    def is_optional(self) -> bool:
        return self.dropout > 0

    def learn(self, captions: Sequence[str] | None) -> None:
        """Nothing: classes are all it looks at."""

    def forward(self, batch: Mapping[str, Tensor]) -> Cond:
        if "label" not in batch:
            raise ValueError("conditioner=class_label needs images with classes, and these data have none")
        labels = batch["label"].to(self.table.weight.device)
        if self.training and self.dropout > 0:
            dropped = torch.rand(labels.shape, device=labels.device) < self.dropout
            labels = torch.where(dropped, self.num_classes, labels)
        return {"vector": self.table(labels)}

    def null(self, num: int) -> Cond:
        return {"vector": self.table.weight[self.num_classes].expand(num, -1)}

    def from_prompts(self, words: Sequence[str]) -> Cond:
        labels = [self._label(word) for word in words]
        return {"vector": self.table(torch.tensor(labels, device=self.table.weight.device))}

    def _label(self, word: str) -> int:
        if not word.isdecimal() or int(word) >= self.num_classes:
            raise ValueError(f"need labels 0..{self.num_classes - 1}, got {word}")
        return int(word)
