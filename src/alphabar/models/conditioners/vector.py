"""A vector of numbers, such as attributes or regression labels of an image, as its condition."""

from torch import Tensor, nn

from alphabar.models.conditioners import VectorConditioner


class Vector(VectorConditioner):
    """Maps the standardised vector to the condition by MLP((v - mean) / std); the null condition is learned.

    Arguments and errors: see `VectorConditioner`.
    """

    def __init__(self, length: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__(length, channels, dropout)
        self.layers = nn.Sequential(nn.Linear(length, channels), nn.SiLU(), nn.Linear(channels, channels))

    def embed(self, vectors: Tensor) -> Tensor:
        return self.layers(vectors)
