"""Images that live in memory as one tensor: a batch is one `index_select`, on whatever device the tensor is."""

import torch
from torch import Tensor

from alphabar.training.data import ImageSet, Shape


class ResidentImages(ImageSet):
    """`pixels` uint8 [N, C, H, W] and `labels` int64 [N]; the caller has put them into an order that mixes the classes."""

    def __init__(self, pixels: Tensor, labels: Tensor | None) -> None:
        self.pixels = pixels
        self._labels = labels

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> Shape:
        return Shape(self.pixels.shape[1], self.pixels.shape[2])

    @property
    def labels(self) -> Tensor | None:
        return self._labels

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        indices = indices.to(self.pixels.device)
        batch = {"image": self.pixels.index_select(0, indices)}
        if self._labels is not None:
            batch["label"] = self._labels.index_select(0, indices)
        return batch

    def load(self) -> tuple[Tensor, Tensor | None]:
        return self.pixels, self._labels

    def to(self, device: torch.device) -> "ResidentImages":
        """The same images on `device`."""
        labels = None if self._labels is None else self._labels.to(device)
        return ResidentImages(self.pixels.to(device), labels)
