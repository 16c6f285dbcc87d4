"""Numbers that are known of an image, such as attributes or what a regression predicts, as its condition."""

from torch import Tensor, nn

from alphabar.models.conditioners import VectorConditioner


class Vector(VectorConditioner):
    """The condition is a small network of the standardised vector: MLP((v - mean) / std), or a learned null condition.

    Arguments and errors: see `VectorConditioner`.
    """

    def __init__(self, length: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__(length, channels, dropout)
        self.layers = nn.Sequential(nn.Linear(length, channels), nn.SiLU(), nn.Linear(channels, channels))

    def embed(self, vectors: Tensor) -> Tensor:
        return self.layers(vectors)
