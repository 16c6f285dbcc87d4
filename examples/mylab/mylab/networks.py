"""A network: any nn.Module that is called as network(x, label, cond)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from alphabar.models.networks import ConditionReader


class Dilated(nn.Module):
    """Convolutions that see ever further, each with noise level and condition added to its channels."""

    def __init__(self, channels: int, width: int, vector_channels: int = 0) -> None:
        super().__init__()
        self.reader = ConditionReader(vector_channels)  # refuses a condition of another kind or width, in one line
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.layers = nn.ModuleList([nn.Conv2d(width, width, 3, padding=2**i, dilation=2**i) for i in range(4)])
        self.biases = nn.ModuleList([nn.Linear(2 + vector_channels, width) for _ in self.layers])
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        vector = self.reader.read(cond, x).vector
        level = label[:, None] / 1000
        known = torch.cat([level, level**2] if vector is None else [level, level**2, vector], 1)
        h = self.first(x)
        for layer, bias in zip(self.layers, self.biases, strict=True):
            h = h + layer(nn.functional.silu(h + bias(known)[:, :, None, None]))
        return self.last(h)
