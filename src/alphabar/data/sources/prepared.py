"""Images that were decoded once into one memory-mapped file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from alphabar.data import ImageSet, ImageSource, LoadedImages, ReadImages, Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.loading.options import Loading
from alphabar.data.sources.arrays import DAMAGED, read_arrays
from alphabar.errors import DataNotFound, UserError
from alphabar.files.paths import user_path
from alphabar.files.reading import must_be_file, read_bytes
from alphabar.runs.checkpoints.restored import must_be_like

VERSION = 1  # the version of the files
IMAGES, METADATA, TEXTS, NAMES, SKIPPED = "images.npy", "metadata.npz", "texts.json", "names.txt", "skipped.jsonl"
MANIFEST = "manifest.json"  # written last: without it, a folder is not finished
HEAD = 2**20  # bytes at the beginning of the images whose hash is compared
HEADER = 128  # bytes before the first image, as numpy writes them for an array of this kind
ADVICE = ": data.root names a folder that prepare.py has made"


@dataclass(frozen=True)
class Manifest:
    """The content of a prepared folder: the number and the shape of its images, what they were made of, and hashes of its files.

    num_train, num_held_out: the rows of the images to train on, which come first, and of those that are held out.
    source: the fingerprint of the data that were prepared. content: a hash of all images and their metadata.
    head: a hash of the first bytes of the file of images.
    """

    version: int
    num_train: int
    num_held_out: int
    channels: int
    height: int
    width: int
    symmetric: bool
    num_skipped: int
    source: str
    content: str
    head: str

    @property
    def num_images(self) -> int:
        return self.num_train + self.num_held_out

    @property
    def shape(self) -> Shape:
        return Shape(self.channels, self.height, self.width)

    def to_json(self) -> str:
        return json.dumps(vars(self), indent=1)


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest of a finished folder. Raises DataNotFound if it is none, and UserError for one of another kind."""
    if not folder.is_dir():
        raise DataNotFound(f"there is no folder {folder}", ADVICE)
    if not (folder / MANIFEST).is_file():
        if (folder / IMAGES).is_file():
            raise UserError(f"{folder} is not finished: repeat the command that prepares it, which goes on where it was")
        raise DataNotFound(f"{folder} has no {MANIFEST}", ADVICE)
    path = folder / MANIFEST
    try:
        content = json.loads(read_bytes(path, most=HEAD))
        must_be_like(content, vars(Manifest(VERSION, 0, 0, 0, 0, 0, False, 0, "", "", "")), str(path))
        found = Manifest(**{key: content[key] for key in Manifest.__dataclass_fields__})
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if found.version != VERSION:
        raise UserError(f"{folder} was prepared by another version of alphabar: prepare it again")
    return found


def images_header(num: int, shape: Shape) -> bytes:
    """Returns the bytes before the images in their file: those of a .npy file with an array uint8 [num, C, H, W]."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": (num, *shape)})
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + f"{text:<{HEADER - 11}}\n".encode()


def head_of(path: Path) -> str:
    """Returns the hash of the first bytes of a file."""
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(HEAD), digest_size=16).hexdigest()


@dataclass(frozen=True)
class MappedImages:
    """The images of a file uint8 [N, C, H, W], read from the disk when they are used; a copy in a worker opens the file itself."""

    path: Path
    num: int
    shape: Shape

    @cached_property
    def rows(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, mode="r", offset=HEADER, shape=(self.num, *self.shape))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "num": self.num, "shape": self.shape}


class PreparedImages(ImageSet):
    """The images of a prepared folder from row `first` on, as many as there is metadata of or `num`."""

    def __init__(
        self, images: MappedImages, first: int, num: int, labels: Tensor | None, captions: Tensor | None, vectors: Tensor | None
    ) -> None:
        super().__init__(images.shape, labels, captions, vectors)
        self.mapped = images
        self.first, self.num = first, num

    def __len__(self) -> int:
        return self.num

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        pixels = self.mapped.rows[self.first + indices.cpu().numpy()]  # a copy of these rows
        return {"image": torch.from_numpy(pixels), **self.metadata(indices)}

    def load(self) -> LoadedImages:
        return LoadedImages(self._copy(0, self.num), self.labels, self.captions, self.vectors)

    def read(self, start: int, stop: int) -> ReadImages:
        return ReadImages(self._copy(start, stop), [f"image {self.first + index}" for index in range(start, stop)], {})

    def _copy(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.array(self.mapped.rows[self.first + start : self.first + stop]))


class PreparedSource(ImageSource):
    """A source of the images that `Preparation` has written into a folder, with the order, splits and shape of the original data.

    Nothing in the folder is unpickled. Raises DataNotFound if there is no such folder, and UserError for one that is not finished
    or is damaged.
    """

    def __init__(self, root: str) -> None:
        self.root = user_path(root).absolute()
        self.manifest = read_manifest(self.root)
        path, needed = self.root / IMAGES, HEADER + self.manifest.num_images * prod(self.manifest.shape)
        try:
            must_be_file(path)
            size, head = path.stat().st_size, head_of(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if size != needed:
            raise UserError(f"{path} is damaged: {size:,} bytes, need {needed:,} for {self.manifest.num_images:,} images")
        if head != self.manifest.head:
            raise UserError(f"{path} is damaged: it begins with other images than {MANIFEST} says; prepare it again")

    @property
    def shape(self) -> Shape:
        return self.manifest.shape

    @property
    def symmetric(self) -> bool:
        return self.manifest.symmetric

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        return self._texts("classes")

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        return self._texts("captions") if self.reads_captions else None

    @property
    def vector_length(self) -> int | None:
        return self._metadata["vectors"].shape[1] if "vectors" in self._metadata else None

    def image_files(self) -> dict[str, Any]:
        return {"num": self.manifest.num_images, "names_and_sizes": self.manifest.content}

    def prepare(self) -> None:
        """Does nothing: the images are on the disk."""

    def train(self) -> ImageSet:
        return self._images(0, self.manifest.num_train)

    def held_out(self) -> ImageSet:
        return self._images(self.manifest.num_train, self.manifest.num_held_out)

    def fingerprint(self) -> str:
        return self.manifest.content

    def _images(self, first: int, num: int) -> PreparedImages:
        known = {name: values[first : first + num] for name, values in self._metadata.items()}
        captions = known.get("captions") if self.captions is not None else None
        mapped = MappedImages(self.root / IMAGES, self.manifest.num_images, self.shape)
        return PreparedImages(mapped, first, num, known.get("labels"), captions, known.get("vectors"))

    @cached_property
    def _metadata(self) -> dict[str, Tensor]:
        """Returns labels, indices of captions and vectors of all images. Raises UserError unless they fit the images."""
        path, limits = self.root / METADATA, {"labels": self.classes, "captions": self._texts("captions")}
        try:
            must_be_file(path)
            found = read_arrays(path)
        except DAMAGED as error:
            raise UserError(f"cannot read {path}: {' '.join(str(error).split()) or type(error).__name__}") from error
        for name, values in found.items():
            fits = len(values) == self.manifest.num_images if values.ndim else False
            if name in limits and fits:
                texts = limits[name] or ()
                fits = values.dtype == np.int64 and values.ndim == 1 and 0 <= values.min() <= values.max() < len(texts)
            elif fits:
                fits = name == "vectors" and values.dtype == np.float32 and values.ndim == 2 and bool(np.isfinite(values).all())
            if not fits:
                raise UserError(f"{path} is damaged: {name} {values.dtype} {list(values.shape)} does not fit the images")
        return {name: torch.from_numpy(values) for name, values in found.items()}

    def _texts(self, name: str) -> tuple[str, ...] | None:
        """Returns the names of the classes, or the captions. Raises UserError unless they are texts."""
        texts = self._all_texts.get(name)
        return None if texts is None else tuple(texts)

    @cached_property
    def _all_texts(self) -> dict[str, Sequence[str]]:
        path = self.root / TEXTS
        try:
            found = json.loads(read_bytes(path))
            if not isinstance(found, dict) or not all(_are_texts(texts) for texts in found.values()):
                raise ValueError("need lists of texts")
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
        return found


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


class Prepared(ImageDataModule):
    """The data module of `PreparedSource`."""

    def __init__(self, root: str, **loading: Unpack[Loading]) -> None:
        super().__init__(PreparedSource(root), **loading)
