"""Images in memory as one tensor, on any device; a batch is one `index_select`."""

import torch
from torch import Tensor

from alphabar.bits import Bits, plain_integers
from alphabar.data import ImageSet, LoadedImages, ReadImages, Shape


class ResidentImages(ImageSet):
    """Images in memory: `pixels`, uint8 or uint16 [N, C, H, W], shuffled by the caller, and what an `ImageSet` knows of them."""

    def __init__(
        self, pixels: Tensor, labels: Tensor | None, captions: Tensor | None = None, vectors: Tensor | None = None
    ) -> None:
        super().__init__(Shape(*pixels.shape[1:]), labels, captions, vectors)
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def bits(self) -> Bits:
        return 16 if self.pixels.dtype == torch.uint16 else 8

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        indices = indices.to(self.pixels.device)
        image = plain_integers(self.pixels).index_select(0, indices).view(self.pixels.dtype)
        return {"image": image, **self.metadata(indices)}

    def load(self) -> LoadedImages:
        return LoadedImages(self.pixels, self.labels, self.captions, self.vectors)

    def read(self, start: int, stop: int) -> ReadImages:
        return ReadImages(self.pixels[start:stop].cpu(), [f"image {index}" for index in range(start, stop)], {})

    def to(self, device: torch.device) -> "ResidentImages":
        """Returns the same images on `device`."""
        known = (self.labels, self.captions, self.vectors)
        return ResidentImages(self.pixels.to(device), *(None if rows is None else rows.to(device) for rows in known))

    def with_mirrored(self) -> "ResidentImages":
        """Returns the N images and then the same ones mirrored left to right, 2 N in all."""
        plain = plain_integers(self.pixels)
        known = (self.labels, self.captions, self.vectors)
        twice = (None if rows is None else torch.cat([rows, rows]) for rows in known)
        return ResidentImages(torch.cat([plain, plain.flip(-1)]).view(self.pixels.dtype), *twice)
