"""A conditioner: from what is known of an image to what the network reads beside the noise level."""

import torch
from torch import Tensor, nn

from alphabar.models.conditioners import VectorConditioner


class Waves(VectorConditioner):
    """Each number by the sines and cosines of four frequencies, from which networks tell close ones apart."""

    def __init__(self, length: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__(length, channels, dropout)
        self.layer = nn.Linear(8 * length, channels)

    def embed(self, vectors: Tensor) -> Tensor:
        angles = (vectors[:, :, None] * 2.0 ** torch.arange(4, device=vectors.device)).flatten(1)
        return self.layer(torch.cat([angles.sin(), angles.cos()], 1))
