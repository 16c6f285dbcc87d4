"""The conditions of a grid of samples during training, and how the grid shows them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.bits import rounded_to_uint8
from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.models.codecs.pixels import to_uint8
from alphabar.models.conditioners import Conditioner
from alphabar.sampling.conditions import Conditions, dataset_conditions, preview_images, prompt_conditions
from alphabar.sampling.drawn_text import BACKGROUND
from alphabar.sampling.image_grid import grid, grid_with_captions, grid_with_row_names, side_by_side, titled_blocks

MAX_CLASSES = 100  # rows of a grid


@dataclass(frozen=True)
class Preview:
    """Conditions of `num` images, and how a grid shows them.

    classes: the names of the rows. captions: one for each image. sources: [num, C, H, W], the images that conditions are of.
    real: images of the data, [M, C, H, W]: those of the captions, or else so many for each row; None if there are none.
    size: what stands after "samples" below them.
    """

    conditions: Conditions
    num: int
    classes: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    sources: Tensor | None = None
    real: Tensor | None = None
    size: str = ""

    def picture(self, images: Tensor) -> Tensor:
        """Returns the grid [C, H, W] of images [num, C, H, W] beside real ones, each with a title below it."""
        if self.sources is not None:
            columns = source_columns(self.conditions, self.sources, images)
            return titled_blocks({f"each: {' | '.join(columns)}": grid(side_by_side(*columns.values()))})
        if self.captions is not None:
            pairs = [images] if self.real is None else [images, self.real]
            title = f"samples{self.size}" if self.real is None else "each: sample | real"
            return titled_blocks({title: grid_with_captions(side_by_side(*pairs), self.captions)})
        if self.classes is not None:
            samples, num_rows = grid_with_row_names(images, self.classes, self.num // len(self.classes)), len(self.classes)
        else:
            samples, num_rows = grid(images), num_grid_rows(self.num)
        real = {} if self.real is None else {"real": grid(self.real, len(self.real) // num_rows)}
        return titled_blocks({f"samples{self.size}": samples, **real})

    @property
    def text(self) -> str | None:
        """The captions or the classes, one a line, or None if there are neither."""
        lines = self.captions or self.classes
        return None if lines is None else "\n".join(lines)


def preview(conditioner: Conditioner, data: ImageDataModule, num: int) -> Preview:
    """Returns a preview of about `num` images: a row for each class, or else the conditions of the first held-out images.

    Of very many classes the first MAX_CLASSES are shown.
    """
    images = preview_images(data)
    if conditioner.classes:
        shown_classes = conditioner.classes[:MAX_CLASSES]
        columns = preview_size(conditioner, num) // len(shown_classes)
        prompts = [label for label in shown_classes for _ in range(columns)]
        is_named = data.classes is not None and len(data.classes) == len(conditioner.classes)
        conditions = prompt_conditions(conditioner, prompts, "callbacks.samples")
        real = images_of_classes(images, len(shown_classes), num_real_columns(columns)) if is_named else None
        names = data.classes[:MAX_CLASSES] if is_named and data.classes is not None else shown_classes
        return Preview(conditions, len(prompts), names, real=real)
    conditions = dataset_conditions(conditioner, images)
    indices = torch.arange(num) % max(len(images), 1)
    if conditioner.takes_images:
        return Preview(conditions, num, sources=images.images(indices).cpu())
    captions = captions_at(images, indices, data) if conditioner.depicts == "caption" else None
    if conditioner.depicts == "vector" and images.vectors is not None:
        captions = [", ".join(f"{number:.3g}" for number in vector) for vector in images.vectors[indices].tolist()]
    num_rows = num_grid_rows(num)
    num_real = min(num_rows * num_real_columns(math.ceil(num / num_rows)), len(images) // num_rows * num_rows)
    shown = indices if captions is not None else torch.arange(num_real)
    return Preview(conditions, num, captions=captions, real=images.images(shown).cpu() if len(images) and len(shown) else None)


def preview_size(conditioner: Conditioner, num: int) -> int:
    """Returns the number of images in a preview of about `num`: equally many, and at least one, for each class that is shown."""
    rows = min(len(conditioner.classes), MAX_CLASSES)
    return max(1, num // rows) * rows if rows else num


def num_grid_rows(num: int) -> int:
    """Returns the number of rows of a grid of `num` images that is as square as possible."""
    return math.ceil(num / math.ceil(math.sqrt(num)))


def num_real_columns(num_columns: int) -> int:
    """Returns the number of columns of real images beside columns of samples: half as many."""
    return math.ceil(num_columns / 2)


def images_of_classes(images: ImageSet, num_classes: int, num_each: int) -> Tensor | None:
    """Returns the first `num_each` images of each class, uint8 [num_classes * num_each, C, H, W]; white where there are fewer.

    Returns None if the images have no labels.
    """
    labels = images.metadata(torch.arange(len(images))).get("label")
    if labels is None:
        return None
    shown = torch.full((num_classes, num_each, *images.shape), BACKGROUND, dtype=torch.uint8)
    for label, row in enumerate(shown):
        indices = (labels.cpu() == label).nonzero().flatten()[:num_each]
        if len(indices):
            row[: len(indices)] = rounded_to_uint8(images.images(indices).cpu())
    return shown.flatten(0, 1)


def captions_at(images: ImageSet, indices: Tensor, data: ImageDataModule) -> list[str] | None:
    """Returns the captions of the images of int64 `indices` [B], or None if they have none."""
    known = images.metadata(indices)
    if "caption" not in known or data.captions is None:
        return None
    captions = data.captions
    return [captions[place] for place in known["caption"].tolist()]


def source_columns(conditions: Conditions, sources: Tensor, images: Tensor, first: int = 0) -> dict[str, Tensor]:
    """Returns columns, each uint8 [N, C, H, W], by what they show: the image that the network sees as its condition, the sample i
    that it made of it, and source image i if the network saw a degraded version of it, in full size. Sources are repeated as
    needed.

    first: the index of the first image.
    """
    indices = range(first, first + len(images))
    rows = torch.tensor(indices) % len(sources)
    cond = conditions(indices) or {}
    if "image" not in cond or cond["image"].shape[1:] != images.shape[1:]:
        return {"condition": sources[rows], "sample": images}
    seen = {"condition": to_uint8(cond["image"]).cpu(), "sample": images}
    return {**seen, "real": sources[rows]} if sources.shape[1:] == images.shape[1:] else seen
