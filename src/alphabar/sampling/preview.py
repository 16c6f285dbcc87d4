"""What the images of a grid are told while a model learns, and how the grid shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.models.codecs.pixels import to_uint8
from alphabar.models.conditioners import Conditioner, ImageConditioner
from alphabar.models.conditioners.class_label import ClassLabel
from alphabar.models.conditioners.text import Text
from alphabar.sampling.conditions import Conditions, from_prompts, of_data, shown_images
from alphabar.sampling.image_grid import beside, captioned, grid, named


@dataclass(frozen=True)
class Preview:
    """Conditions of `num` images, and how they are shown.

    names: of rows, the classes. captions: of images. pictures: uint8 [num, C, H, W], that the images are made of.
    """

    conditions: Conditions
    num: int
    names: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    pictures: Tensor | None = None

    def picture(self, images: Tensor) -> Tensor:
        """The grid [C, H, W] of images [num, C, H, W]."""
        if self.names is not None:
            return named(images, self.names, self.num // len(self.names))
        if self.captions is not None:
            return captioned(images, self.captions)
        return grid(images if self.pictures is None else beside(*compared(self.conditions, self.pictures, images)))

    @property
    def words(self) -> str | None:
        """What is told, in words, a line each; None if that is none."""
        told = self.captions or self.names
        return None if told is None else "\n".join(told)


def preview(conditioner: Conditioner, data: ImageDataModule, num: int) -> Preview:
    """For about `num` images in a grid: with classes, a row for each; else they are told what the first held-out images are."""
    if isinstance(conditioner, ClassLabel):
        columns = max(1, num // conditioner.num_classes)
        labels = [str(label) for label in range(conditioner.num_classes)]
        words = [label for label in labels for _ in range(columns)]
        names = labels if data.classes is None or len(data.classes) != len(labels) else data.classes
        return Preview(from_prompts(conditioner, words, "callbacks.samples"), len(words), names)
    images = shown_images(data)
    told = of_data(conditioner, images)
    indices = torch.arange(num) % max(len(images), 1)
    if isinstance(conditioner, ImageConditioner):
        return Preview(told, num, pictures=images.images(indices))
    return Preview(told, num, captions=captions_of(images, indices, data) if isinstance(conditioner, Text) else None)


def captions_of(images: ImageSet, indices: Tensor, data: ImageDataModule) -> list[str] | None:
    """Of the images of int64 `indices` [B]; None if they have none."""
    known = images.facts(indices)
    if "caption" not in known or data.captions is None:
        return None
    captions = data.captions
    return [captions[place] for place in known["caption"].tolist()]


def compared(told: Conditions, pictures: Tensor, images: Tensor) -> list[Tensor]:
    """Columns, each uint8 [N, C, H, W]: what the model sees of picture i, and the image i that it made of it; if it sees an image
    of its own making of a picture of full size, that picture, too. Pictures start anew when they end."""
    rows = torch.arange(len(images)) % len(pictures)
    cond = told(list(range(len(images)))) or {}
    if "image" not in cond or cond["image"].shape[1:] != images.shape[1:]:
        return [pictures[rows], images]
    seen = to_uint8(cond["image"]).cpu()
    return [seen, images, pictures[rows]] if pictures.shape[1:] == images.shape[1:] else [seen, images]
