"""Datasets of torchvision by name."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.decoding.pixels import image_shape
from alphabar.data.folders.files import FileStates
from alphabar.data.image_sets.decoded import DecodedImages, PictureReader
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.loading.options import Loading
from alphabar.data.sources.torchvision_catalogue import CATALOGUE, CatalogueEntry
from alphabar.errors import DataNotFound, UserError
from alphabar.files.paths import user_path
from alphabar.resolution import Resolution

ORDER_SEED = 0  # the order belongs to the data, not to a run


@dataclass(frozen=True)
class ItemReader(PictureReader):
    """Reads the images of a torchvision dataset, in the order of `indices`."""

    dataset: Any
    entry: CatalogueEntry
    dataset_name: str
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Image.Image:
        return self.entry.read(self.dataset, self.indices[index])

    def folder(self) -> Path:
        return Path(self.dataset.root)

    def name(self, index: int) -> str:
        return f"image {self.indices[index]} of {self.dataset_name}"


class TorchvisionSource(ImageSource):
    """A source of the dataset `name` under `root`, in torchvision's own layout of files.

    download: whether to fetch what is missing.
    resolution: that of the images, which are cropped to its aspect ratio; None: the dataset's own, or 64 if its images
        are not square. channels: 1 grey, 3 RGB; None: the dataset's own.
    Raises UserError for an unknown name or missing files, and ValueError as `image_shape` does.
    """

    def __init__(
        self,
        name: str,
        root: str,
        download: bool = False,
        resolution: Resolution | None = None,
        channels: int | None = None,
    ) -> None:
        if name not in CATALOGUE:
            by_lower = {known.lower(): known for known in CATALOGUE}
            near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
            hint = f"did you mean {by_lower[near[0]]}? " if near else ""
            raise UserError(f"unknown dataset {name!r}: {hint}data.name takes {', '.join(CATALOGUE)}")
        self.name = name
        self.root = user_path(root).absolute()
        self.download = download
        self._entry = CATALOGUE[name]
        own = self._entry.shape
        self._shape = image_shape(
            channels=own.channels if channels is None else channels,
            resolution=own.resolution if resolution is None else resolution,
        )
        if not download:
            self._check_files()

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def symmetric(self) -> bool:
        return self._entry.symmetric

    @property
    def classes(self) -> Sequence[str] | None:
        return None if self._entry.classes is None else self._entry.classes(self._train)

    def prepare(self) -> None:
        if self.download:
            for train in (True, False):
                self._open(train, download=True)

    def train(self) -> ImageSet:
        return self._images(self._train)

    def held_out(self) -> ImageSet:
        return self._images(self._open(train=False))

    def fingerprint(self) -> str:
        return FileStates(self.root, self._entry.files).fingerprint((self.name, self._shape.channels, self._shape.resolution))

    @cached_property
    def _train(self) -> Any:
        return self._open(train=True)

    def _open(self, train: bool, download: bool = False) -> Any:
        if not download:
            self._check_files()
        try:
            return self._entry.open(str(self.root), train, download)
        except Exception as error:  # any kind: that of the network, the archive or the parser
            verb = "download" if download else "read"
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"cannot {verb} {self.name} under {self.root}: {reason}") from error

    def _check_files(self) -> None:
        places = {name: self.root / name for name in self._entry.files}
        missing = [name for name, place in places.items() if not (place.is_file() or place.is_dir())]
        if missing:
            problem = f"no {self.name} under {self.root}: missing {', '.join(missing)}"
            raise DataNotFound(problem, " (data.download=true fetches it)")

    def _images(self, dataset: Any) -> ImageSet:
        order = np.random.RandomState(ORDER_SEED).permutation(len(dataset))
        entry = self._entry
        labels: Tensor | None = None
        if entry.labels is not None:
            labels = torch.as_tensor(np.asarray(entry.labels(dataset))[order], dtype=torch.int64)
        if entry.pixels is not None and entry.shape == self._shape:
            return ResidentImages(entry.pixels(dataset)[torch.from_numpy(order)].contiguous(), labels)
        return DecodedImages(ItemReader(dataset, entry, self.name, order.tolist()), self._shape, labels)


class Torchvision(ImageDataModule):
    """The data module of `TorchvisionSource`."""

    def __init__(
        self,
        name: str,
        root: str,
        *,
        download: bool = False,
        resolution: Resolution | None = None,
        channels: int | None = None,
        **loading: Unpack[Loading],
    ) -> None:
        source = TorchvisionSource(name, root, download, resolution, channels)
        super().__init__(source, **loading)
