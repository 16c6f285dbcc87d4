"""Images that live in memory as one tensor: a batch is one `index_select`, on whatever device the tensor is."""

import torch
from torch import Tensor

from alphabar.data import ImageSet, LoadedImages, Shape


class ResidentImages(ImageSet):
    """Images in memory: `pixels` uint8 [N, C, H, W], `labels` and `captions` int64 [N], which the caller has shuffled."""

    def __init__(self, pixels: Tensor, labels: Tensor | None, captions: Tensor | None = None) -> None:
        self.pixels = pixels
        self._labels = labels
        self._captions = captions

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> Shape:
        return Shape(self.pixels.shape[1], self.pixels.shape[2])

    @property
    def labels(self) -> Tensor | None:
        return self._labels

    @property
    def captions(self) -> Tensor | None:
        return self._captions

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        indices = indices.to(self.pixels.device)
        return {"image": self.pixels.index_select(0, indices), **self.metadata(indices)}

    def load(self) -> LoadedImages:
        return LoadedImages(self.pixels, self._labels, self._captions)

    def to(self, device: torch.device) -> "ResidentImages":
        """Returns the same images on `device`."""
        labels, captions = (None if ids is None else ids.to(device) for ids in (self._labels, self._captions))
        return ResidentImages(self.pixels.to(device), labels, captions)
