"""The torchvision datasets we know: their shape, their files, and where they keep pixels and labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision import datasets

from alphabar.data import Shape
from alphabar.files.reading import open_image

SCALED = Shape(3, 64, 64)  # the shape to which images that are not square are scaled


@dataclass(frozen=True)
class CatalogueEntry:
    """The properties of one dataset of torchvision.

    open: (root, train, download) -> the dataset's training or test split.
    files: the paths, relative to root, that must exist.
    shape: the shape of its images, if they are square.
    symmetric: whether a mirrored image is as likely as the image itself.
    pixels: dataset -> uint8 [N, C, H, W] if it holds its images in memory, else None.
    labels: dataset -> class ids [N] if each image has one class, else None.
    classes: dataset -> the names of the classes, or None if there are none.
    read: (dataset, index) -> the image, of a dataset that opens image files, which we open ourselves.
    """

    open: Callable[[str, bool, bool], Any]
    files: tuple[str, ...]
    shape: Shape = SCALED
    symmetric: bool = True
    pixels: Callable[[Any], Tensor] | None = None
    labels: Callable[[Any], Sequence[int]] | None = lambda data: data._labels
    classes: Callable[[Any], Sequence[str]] | None = lambda data: data.classes
    read: Callable[[Any, int], Image] = lambda data, index: data[index][0]


def _by_flag(dataset: Callable[..., Any]) -> Callable[[str, bool, bool], Any]:
    return lambda root, train, download: dataset(root, train=train, download=download)


def _by_split(dataset: Callable[..., Any], train_split: str = "train") -> Callable[[str, bool, bool], Any]:
    return lambda root, train, download: dataset(root, split=train_split if train else "test", download=download)


def _open_rgb(path: Path) -> Image:
    """Returns the image in a file as torchvision does, decoded to RGB."""
    with open_image(path) as image:
        return image.convert("RGB")


def _idx(dataset: Callable[..., Any], folder: str) -> CatalogueEntry:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return CatalogueEntry(
        open=_by_flag(dataset),
        files=tuple(f"{folder}/raw/{part}-ubyte" for part in parts),
        shape=Shape(1, 28, 28),
        symmetric=False,  # not FashionMNIST either: all its shoes point the same way
        pixels=lambda data: data.data.unsqueeze(1),
        labels=lambda data: data.targets,
    )


def _cifar(dataset: Callable[..., Any], files: tuple[str, ...]) -> CatalogueEntry:
    return CatalogueEntry(
        open=_by_flag(dataset),
        files=files,
        shape=Shape(3, 32, 32),
        pixels=lambda data: torch.from_numpy(data.data).permute(0, 3, 1, 2),
        labels=lambda data: data.targets,
    )


CIFAR10_FILES = (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch", "batches.meta")
STL10_FILES = ("train_X.bin", "train_y.bin", "unlabeled_X.bin", "test_X.bin", "test_y.bin", "class_names.txt")
CELEBA_LISTS = ("list_eval_partition", "identity_CelebA", "list_bbox_celeba", "list_landmarks_align_celeba", "list_attr_celeba")

CATALOGUE = {
    "MNIST": _idx(datasets.MNIST, "MNIST"),
    "FashionMNIST": _idx(datasets.FashionMNIST, "FashionMNIST"),
    "KMNIST": _idx(datasets.KMNIST, "KMNIST"),
    "CIFAR10": _cifar(datasets.CIFAR10, tuple(f"cifar-10-batches-py/{name}" for name in CIFAR10_FILES)),
    "CIFAR100": _cifar(datasets.CIFAR100, tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta"))),
    "SVHN": CatalogueEntry(
        open=_by_split(datasets.SVHN),
        files=("train_32x32.mat", "test_32x32.mat"),
        shape=Shape(3, 32, 32),
        symmetric=False,
        pixels=lambda data: torch.from_numpy(np.ascontiguousarray(data.data)),
        labels=lambda data: data.labels,
        classes=lambda data: tuple("0123456789"),
    ),
    "STL10": CatalogueEntry(
        open=_by_split(datasets.STL10),
        files=tuple(f"stl10_binary/{name}" for name in STL10_FILES),
        shape=Shape(3, 96, 96),
        pixels=lambda data: torch.from_numpy(np.ascontiguousarray(data.data)),
        labels=lambda data: data.labels,
    ),
    "CelebA": CatalogueEntry(
        open=_by_split(datasets.CelebA),
        files=("celeba/img_align_celeba", *(f"celeba/{name}.txt" for name in CELEBA_LISTS)),
        labels=None,
        classes=None,
        read=lambda data, index: open_image(Path(data.root, data.base_folder, "img_align_celeba", data.filename[index])),
    ),
    "Flowers102": CatalogueEntry(
        open=_by_split(datasets.Flowers102),
        files=tuple(f"flowers-102/{name}" for name in ("jpg", "imagelabels.mat", "setid.mat")),
        read=lambda data, index: _open_rgb(data._image_files[index]),
    ),
    "Food101": CatalogueEntry(
        open=_by_split(datasets.Food101),
        files=("food-101/meta", "food-101/images"),
        read=lambda data, index: _open_rgb(data._image_files[index]),
    ),
    "OxfordIIITPet": CatalogueEntry(
        open=_by_split(datasets.OxfordIIITPet, train_split="trainval"),
        files=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        read=lambda data, index: _open_rgb(data._images[index]),
    ),
}
