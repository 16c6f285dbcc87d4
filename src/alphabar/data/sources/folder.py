"""A folder of images, flat or nested."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import torch
from PIL.Image import Image
from torch import Tensor

from alphabar.bits import Bits
from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.folders.captions import CaptionFiles, find_caption_files
from alphabar.data.folders.files import (
    EXAMPLES,
    Entry,
    FileStates,
    count_kinds,
    folder_entries,
    hash_position,
    image_files,
    is_image,
)
from alphabar.data.folders.folder_layout import FolderLayout
from alphabar.data.folders.vector_tables import read_vector_columns
from alphabar.data.image_sets.decoded import DecodedSource, PictureReader
from alphabar.data.loading.options import Loading
from alphabar.errors import DataNotFound, UserError
from alphabar.files.paths import user_path
from alphabar.files.reading import open_image
from alphabar.resolution import Resolution


@dataclass(frozen=True)
class FileReader(PictureReader):
    """Reads the image files `names` under `root` as values of `bits` bits, see `to_pixels_of_bits`."""

    root: Path
    names: list[str]
    bits: Bits = 8

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image:
        return open_image(self.root / self.names[index])

    def name(self, index: int) -> str:
        return str(self.root / self.names[index])

    def folder(self) -> Path:
        return self.root


class FolderSource(DecodedSource):
    """A source of all images under `root`.

    Splits and classes are as in `FolderLayout`. Hidden files and folders are ignored. Without folders of splits, the split of an
    image depends on its path under `root` alone, so that added files do not move others.
    Captions are those in `metadata.jsonl`, `metadata.csv` or `metadata.parquet`, or in a text file beside each image.

    resolution, channels, held_out, strict, bits: see `DecodedSource`, which raises ValueError.
    caption_key: the column of the captions in a table, see `CaptionFiles.read`; None: there are none.
    vector_keys: the columns whose numbers are the vectors of the images, see `read_vector_columns`; None: there are none.
    """

    def __init__(
        self,
        root: str,
        resolution: Resolution,
        channels: int = 3,
        held_out: float = 0.1,
        strict: bool = False,
        caption_key: str | None = "text",
        vector_keys: Sequence[str] | None = None,
        bits: Bits = 8,
    ) -> None:
        super().__init__(resolution, channels, held_out, strict, bits)
        self.root = user_path(root).absolute()
        self.vector_keys = vector_keys or None
        self.caption_key = caption_key
        _check(self.root)

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        return self._layout.classes

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        return None if self._captions is None else tuple(sorted(set(self._captions.values())))

    @property
    def vector_length(self) -> int | None:
        return None if self.vector_keys is None else len(self.vector_keys)

    def prepare(self) -> None:
        """Does nothing: the images are the user's own."""

    @property
    def remarks(self) -> Mapping[str, str]:
        known = self._caption_files.names
        unused = [count_kinds(name for name in self._others if name not in known)]
        if outside := len(self._layout.names) - len(self._layout.used):
            unused.append(f"{outside:,} image{'' if outside == 1 else 's'} outside the splits")
        line = ", ".join(part for part in unused if part)
        captions = {} if self.caption_key is None else self._caption_files.remarks()
        return {**self._layout.remarks(), **captions, **({"not used": line} if line else {})}

    def train(self) -> ImageSet:
        names = [name for place, name in self._files if not self._is_held_out(place, name)]
        if not names and self._layout.has_splits:
            raise UserError(f"there are no images to train on in {self.root}: {self.remarks['splits']}")
        if not names:
            raise UserError(f"all {len(self._files)} images under {self.root} are held out: set data.held_out=0")
        return self._images(names)

    def held_out(self) -> ImageSet:
        return self._images([name for place, name in self._files if self._is_held_out(place, name)])

    def image_files(self) -> dict[str, Any]:
        return {"num": len(self._files), "names_and_sizes": self._states.names_and_sizes()}

    def fingerprint(self) -> str:
        split = "splits" if self._layout.has_splits else self.fraction
        settings: tuple[object, ...] = (self._shape.channels, self._shape.resolution, split)
        if self.bits != 8:
            settings = (*settings, self.bits)
        if (captions := self._captions_of_fingerprint()) is not None:
            pairs = repr(sorted(captions.items())).encode(errors="surrogateescape")
            settings = (*settings, hashlib.blake2b(pairs, digest_size=16).hexdigest())
        if self._vectors is not None:
            vectors = torch.stack([self._vectors[name] for name in sorted(self._vectors)])
            settings = (*settings, hashlib.blake2b(vectors.numpy().tobytes(), digest_size=16).hexdigest())
        return self._states.fingerprint(settings)

    def _is_held_out(self, position: float, name: str) -> bool:
        return self._layout.is_held_out(name) if self._layout.has_splits else position < self.fraction

    @cached_property
    def _entries(self) -> list[Entry]:
        return list(folder_entries(self.root))

    @cached_property
    def _others(self) -> list[str]:
        """Returns the names of the files that are no images."""
        return [entry.name for entry in self._entries if not entry.is_folder and not is_image(entry)]

    @cached_property
    def _layout(self) -> FolderLayout:
        names = [entry.name for entry in self._entries if is_image(entry)]
        return FolderLayout(names, [entry.name for entry in self._entries if entry.is_folder])

    @cached_property
    def _files(self) -> list[tuple[float, str]]:
        """Returns (position, name) of each file, sorted by position, a hash of the name that shuffles the classes."""
        return sorted((hash_position(name), name) for name in self._layout.used)

    @cached_property
    def _states(self) -> FileStates:
        return FileStates(self.root, (name for _, name in self._files))

    @cached_property
    def _caption_files(self) -> CaptionFiles:
        return find_caption_files(self.root, self._layout.names, self._others)

    def _captions_of_fingerprint(self) -> dict[str, str] | None:
        """Returns the captions for the fingerprint if captions are read.

        Those of a valid metadata.jsonl are always part of it, as in earlier versions, whose cached results are so found again.
        """
        return self._captions if self.reads_captions else self._whole_captions_of_earlier_versions

    @cached_property
    def _whole_captions_of_earlier_versions(self) -> dict[str, str] | None:
        try:
            return self._read_captions(self._caption_files.of_earlier_versions())
        except UserError:
            return None

    @property
    def _captions(self) -> dict[str, str] | None:
        """Returns the caption of each image by its name, if captions are read."""
        return self._all_captions if self.reads_captions else None

    @cached_property
    def _all_captions(self) -> dict[str, str] | None:
        return self._read_captions(self._caption_files)

    def _read_captions(self, files: CaptionFiles) -> dict[str, str] | None:
        if self.caption_key is None:
            return None
        names = [name for _, name in self._files]
        captions = files.read(names, self.caption_key)
        return None if captions is None else dict(zip(names, captions, strict=True))

    @cached_property
    def _vectors(self) -> dict[str, Tensor] | None:
        """Returns the vector of each image, float32 [D], by its name."""
        if self.vector_keys is None:
            return None
        names = [name for _, name in self._files]
        rows = read_vector_columns(self.root, self._caption_files.tables, names, self.vector_keys)
        return dict(zip(names, rows, strict=True))

    def _images(self, names: list[str]) -> ImageSet:
        texts = None if self._captions is None else [self._captions[name] for name in names]
        known = None if self._vectors is None else [self._vectors[name] for name in names]
        vectors = None if known is None else torch.stack(known) if known else torch.zeros(0, self.vector_length or 0)
        return self.decoded_images(FileReader(self.root, names, self.bits), self._labels(names), texts, vectors)

    def _labels(self, names: list[str]) -> Tensor | None:
        if self.classes is None:
            return None
        ids: dict[str | None, int] = {folder: label for label, folder in enumerate(self.classes)}
        return torch.tensor([ids[self._layout.class_of(name)] for name in names], dtype=torch.int64)


def _check(root: Path) -> None:
    """Raises DataNotFound unless there are images in a folder."""
    if not root.exists():
        problem = f"there is no folder {root}"
    elif not root.is_dir():
        problem = f"{root} is a file"
    elif next(root.iterdir(), None) is None:
        problem = f"the folder {root} is empty"
    elif next(image_files(root), None) is None:
        found = count_kinds(entry.name for entry in folder_entries(root) if not entry.is_folder)
        problem = f"no images in the folder {root} and its subfolders{f', only {found}' if found else ''}"
    else:
        return
    raise DataNotFound(problem, f": data.root names a folder of images ({EXAMPLES})")


class Folder(ImageDataModule):
    """The data module of `FolderSource`."""

    def __init__(
        self,
        root: str,
        resolution: Resolution,
        *,
        channels: int = 3,
        held_out: float = 0.1,
        strict: bool = False,
        caption_key: str | None = "text",
        vector_keys: Sequence[str] | None = None,
        bits: Bits = 8,
        **loading: Unpack[Loading],
    ) -> None:
        source = FolderSource(root, resolution, channels, held_out, strict, caption_key, vector_keys, bits)
        super().__init__(source, **loading)
