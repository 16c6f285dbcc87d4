"""Datasets of Hugging Face, with images in one column and captions in another."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphabar.bits import Bits
from alphabar.data import ImageSet, ImageSource
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.folders.huggingface_files import (
    cached_dataset,
    dataset_folders,
    is_saved,
    refuse_foreign_arrows,
    refuse_foreign_files,
    stored_image,
)
from alphabar.data.image_sets.decoded import DecodedSource, PictureReader
from alphabar.data.loading.options import Loading
from alphabar.data.streaming.huggingface_stream import HuggingFaceStream
from alphabar.data.streaming.stream_source import StreamSource
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.resolution import Resolution

ORDER_SEED = 0  # the order belongs to the data, not to a run


@dataclass(frozen=True)
class RowReader(PictureReader):
    """Reads the images of `rows` of a dataset, in that order, from its column `key`, the only one that it has.

    folders: see `stored_image`. bits: see `to_pixels_of_bits`.
    """

    dataset: Any
    key: str
    dataset_name: str
    rows: list[int]
    folders: list[Path]
    bits: Bits = 8

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Image.Image:
        return stored_image(self.dataset[self.rows[index]][self.key], self.folders, self.dataset.features[self.key].mode)

    def name(self, index: int) -> str:
        return f"row {self.rows[index]} of {self.dataset_name}"


class HuggingFaceSource(DecodedSource):
    """A source of the images in the column `image_key` of a dataset.

    name: a folder that save_to_disk wrote, or whatever load_dataset takes: a dataset of the hub, or a folder of images, Parquet or
        other files that it knows.
    download: whether to fetch a dataset of the hub; False: it has to be in the cache of the library, prepared by an earlier load.
    subset: the name of the subset, where the dataset has several; None: its default one.
    split, held_out_split: the splits to train on and to hold out; None: the fraction `held_out` of `split`, at random, is held out.
    caption_key, label_key: the columns of texts and of classes; None: there are none.
    resolution, channels, held_out, strict, bits: see `DecodedSource`, which raises ValueError.
    """

    def __init__(
        self,
        name: str,
        resolution: Resolution,
        channels: int = 3,
        subset: str | None = None,
        split: str = "train",
        held_out_split: str | None = None,
        held_out: float = 0.1,
        image_key: str = "image",
        caption_key: str | None = "text",
        label_key: str | None = None,
        strict: bool = False,
        download: bool = False,
        bits: Bits = 8,
    ) -> None:
        super().__init__(resolution, channels, held_out, strict, bits)
        self.name = name
        self.download = download
        self.subset = subset
        self.splits = (split, held_out_split)
        self.image_key, self.caption_key, self.label_key = image_key, caption_key, label_key

    @property
    def classes(self) -> Sequence[str] | None:
        if self.label_key is None:
            return None
        names = getattr(self._train.features[self.label_key], "names", None)
        if names is None:
            raise UserError(f"data.label_key={self.label_key}: need a column of type ClassLabel, of {self.name}")
        return names

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        found = self._datasets  # in any case: a dataset that cannot be had is an error before a run has its folder
        if not self._has_captions:
            return None
        return tuple(sorted({text for dataset in found for text in self._texts(dataset)}))

    def prepare(self) -> None:
        assert self._datasets  # loaded, and so downloaded

    def train(self) -> ImageSet:
        rows = self._order(self._train)[self._num_held_out :]
        if not rows:
            raise UserError(f"no images of {self.name} are left to train on: set data.held_out=0")
        return self._images(self._train, rows)

    def held_out(self) -> ImageSet:
        if self.splits[1] is not None:
            return self._images(self._datasets[1], self._order(self._datasets[1]))
        return self._images(self._train, self._order(self._train)[: self._num_held_out])

    def fingerprint(self) -> str:
        keys = (self.image_key, self.caption_key, self.label_key)
        settings = (self._shape.channels, self._shape.resolution, self.fraction, self.splits, keys)
        content = hashlib.blake2b(repr(settings if self.bits == 8 else (*settings, self.bits)).encode(), digest_size=16)
        for dataset in self._datasets:
            for path in (Path(file["filename"]) for file in dataset.cache_files):
                stat = path.stat()
                content.update(repr((len(dataset), path.name, stat.st_size, stat.st_mtime_ns)).encode())
        return content.hexdigest()

    @property
    def _train(self) -> Any:
        return self._datasets[0]

    @property
    def _num_held_out(self) -> int:
        return 0 if self.splits[1] is not None else round(self.fraction * len(self._train))

    @cached_property
    def _datasets(self) -> list[Any]:
        """Returns the datasets of the splits that are used."""
        found = self._open()
        for split in self.splits:
            if split is not None and split not in found:
                raise UserError(f"{self.name} has no split {split!r}, it has {', '.join(map(str, found))}: set data.split")
        return [self._undecoded(found[split]) for split in self.splits if split is not None]

    def _open(self) -> dict[str, Any]:
        """Returns the splits by name; a dataset that was saved without splits is the one to train on."""
        try:
            import datasets
        except ImportError as error:
            raise UserError("data=huggingface needs Hugging Face's datasets: pip install 'alphabar[huggingface]'") from error
        folder = user_path(self.name)
        if folder.is_dir():
            refuse_foreign_files(folder)
        try:
            if is_saved(folder):
                refuse_foreign_arrows(folder)
                found = datasets.load_from_disk(str(folder))
            elif self.download or folder.is_dir():
                found = datasets.load_dataset(str(folder) if folder.is_dir() else self.name, self.subset)
            else:
                found = cached_dataset(self.name, self.subset)
        except UserError:
            raise
        except Exception as error:  # any kind: the network, files and several libraries are involved
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"data.name={self.name}: cannot load this dataset ({reason})") from error
        return {str(split): each for split, each in found.items()} if isinstance(found, dict) else {self.splits[0]: found}

    def _undecoded(self, dataset: Any) -> Any:
        """Returns the dataset with its images undecoded.

        Raises UserError if the images or the classes are missing; whether captions are wanted may turn out later.
        """
        import datasets

        column = self._column(dataset, "image_key", self.image_key)
        if not isinstance(column, datasets.Image):
            raise UserError(f"data.image_key={self.image_key}: need a column of type Image, got {column}")
        if self.label_key is not None:
            self._column(dataset, "label_key", self.label_key)
        return dataset.cast_column(self.image_key, datasets.Image(mode=column.mode, decode=False))

    def _column(self, dataset: Any, name: str, key: str) -> Any:
        """Returns the type of a column. Raises UserError if there is none."""
        if key not in dataset.features:
            raise UserError(f"data.{name}={key}: {self.name} has no such column, it has {', '.join(dataset.features)}")
        return dataset.features[key]

    @property
    def _has_captions(self) -> bool:
        """Whether captions have a column and are wanted."""
        return self.reads_captions and self.caption_key is not None

    def _texts(self, dataset: Any) -> list[str]:
        """Returns the caption of each row. Raises UserError unless there is a column of texts, and for rows without one."""
        import datasets

        assert self.caption_key is not None
        column = self._column(dataset, "caption_key", self.caption_key)
        if not isinstance(column, datasets.Value):
            raise UserError(f"data.caption_key={self.caption_key}: need a column of texts, got {column}")
        texts = [text.strip() if isinstance(text, str) else "" for text in dataset[self.caption_key]]
        lacking = [row for row, text in enumerate(texts) if not text]
        if lacking:
            raise UserError(
                f"{self.name} has no caption {self.caption_key!r} for {len(lacking)} of {len(texts)} images, the first of them is "
                f"row {lacking[0]}; data.caption_key=null does without captions"
            )
        return texts

    def _order(self, dataset: Any) -> list[int]:
        return np.random.RandomState(ORDER_SEED).permutation(len(dataset)).tolist()

    def _images(self, dataset: Any, rows: list[int]) -> ImageSet:
        reader = RowReader(
            dataset.select_columns([self.image_key]), self.image_key, self.name, rows, dataset_folders(self.name), self.bits
        )
        texts: list[str] | None = None
        if self._has_captions:
            all_texts = self._texts(dataset)
            texts = [all_texts[row] for row in rows]
        return self.decoded_images(reader, self._labels(dataset, rows), texts)

    def _labels(self, dataset: Any, rows: list[int]) -> Tensor | None:
        if self.classes is None:
            return None
        labels = torch.tensor([-1 if label is None else label for label in dataset[self.label_key]], dtype=torch.int64)
        if len(labels) and int(labels.min()) < 0:
            raise UserError(f"data.label_key={self.label_key}: row {int(labels.argmin())} of {self.name} has no class")
        return labels[rows]


class HuggingFace(ImageDataModule):
    """The data module of `HuggingFaceSource` or, with streaming, of `HuggingFaceStream`, see `StreamSource`."""

    def __init__(
        self,
        name: str,
        resolution: Resolution,
        *,
        channels: int = 3,
        subset: str | None = None,
        split: str = "train",
        held_out_split: str | None = None,
        held_out: float = 0.1,
        image_key: str = "image",
        caption_key: str | None = "text",
        label_key: str | None = None,
        strict: bool = False,
        download: bool = False,
        streaming: bool = False,
        num_images: int | None = None,
        shuffle_buffer: int = 5000,
        bits: Bits = 8,
        **loading: Unpack[Loading],
    ) -> None:
        columns = image_key, caption_key, label_key
        source: ImageSource
        if streaming:
            if bits != 8:
                raise ValueError(f"data.bits={bits}: the images of a stream have 8 bits; need 8, or data.streaming=false")
            streams = [HuggingFaceStream(name, subset, each, columns, download) for each in (split, held_out_split) if each]
            others = streams[1] if len(streams) > 1 else None
            source = StreamSource(streams[0], others, resolution, channels, held_out, strict, num_images, shuffle_buffer)
        else:
            source = HuggingFaceSource(
                name, resolution, channels, subset, split, held_out_split, held_out, *columns, strict, download, bits
            )
        super().__init__(source, **loading)
