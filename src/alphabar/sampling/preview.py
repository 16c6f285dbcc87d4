"""The conditions of a grid of samples during training, and how the grid shows them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.models.codecs.pixels import to_uint8
from alphabar.models.conditioners import Conditioner
from alphabar.sampling.conditions import Conditions, dataset_conditions, preview_images, prompt_conditions
from alphabar.sampling.image_grid import grid, grid_with_captions, grid_with_row_names, side_by_side


@dataclass(frozen=True)
class Preview:
    """Conditions of `num` images, and how a grid shows them.

    classes: the names of the rows. captions: one for each image. sources: uint8 [num, C, H, W], the images that conditions are of.
    """

    conditions: Conditions
    num: int
    classes: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    sources: Tensor | None = None

    def picture(self, images: Tensor) -> Tensor:
        """Returns the grid [C, H, W] of images [num, C, H, W]."""
        if self.classes is not None:
            return grid_with_row_names(images, self.classes, self.num // len(self.classes))
        if self.captions is not None:
            return grid_with_captions(images, self.captions)
        return grid(images if self.sources is None else side_by_side(*source_columns(self.conditions, self.sources, images)))

    @property
    def text(self) -> str | None:
        """The captions or the classes, one a line, or None if there are neither."""
        lines = self.captions or self.classes
        return None if lines is None else "\n".join(lines)


def preview(conditioner: Conditioner, data: ImageDataModule, num: int) -> Preview:
    """Returns a preview of about `num` images: a row for each class, or else the conditions of the first held-out images."""
    if conditioner.classes:
        columns = max(1, num // len(conditioner.classes))
        prompts = [label for label in conditioner.classes for _ in range(columns)]
        is_named = data.classes is not None and len(data.classes) == len(conditioner.classes)
        conditions = prompt_conditions(conditioner, prompts, "callbacks.samples")
        return Preview(conditions, len(prompts), data.classes if is_named else conditioner.classes)
    images = preview_images(data)
    conditions = dataset_conditions(conditioner, images)
    indices = torch.arange(num) % max(len(images), 1)
    if conditioner.takes_images:
        return Preview(conditions, num, sources=images.images(indices))
    return Preview(conditions, num, captions=captions_at(images, indices, data) if conditioner.depicts == "caption" else None)


def captions_at(images: ImageSet, indices: Tensor, data: ImageDataModule) -> list[str] | None:
    """Returns the captions of the images of int64 `indices` [B], or None if they have none."""
    known = images.metadata(indices)
    if "caption" not in known or data.captions is None:
        return None
    captions = data.captions
    return [captions[place] for place in known["caption"].tolist()]


def source_columns(conditions: Conditions, sources: Tensor, images: Tensor, first: int = 0) -> list[Tensor]:
    """Returns columns, each uint8 [N, C, H, W]: the image that the network sees as its condition, the sample i that it made of it,
    and source image i if the network saw a degraded version of it, in full size. Sources are repeated as needed.

    first: the index of the first image.
    """
    indices = range(first, first + len(images))
    rows = torch.tensor(indices) % len(sources)
    cond = conditions(indices) or {}
    if "image" not in cond or cond["image"].shape[1:] != images.shape[1:]:
        return [sources[rows], images]
    seen = to_uint8(cond["image"]).cpu()
    return [seen, images, sources[rows]] if sources.shape[1:] == images.shape[1:] else [seen, images]
