"""Datasets of Hugging Face that are streamed row by row, from the hub or from files, and never stored as a whole."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from alphabar.data.folders.huggingface_files import dataset_folders, is_saved, refuse_foreign_files, stored_image
from alphabar.data.streaming.streams import ImageStream, Known, StreamItem
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.models.hub import first_sentence


class HuggingFaceStream(ImageStream):
    """The rows of a split of a dataset; name, subset and split are as in `HuggingFaceSource`.

    columns: the columns of the images, captions and classes. download: whether a dataset of the hub may be fetched.
    """

    def __init__(
        self, name: str, subset: str | None, split: str, columns: tuple[str, str | None, str | None], download: bool
    ) -> None:
        self.name, self.subset, self.split = name, subset, split
        self.image_key, self.caption_key, self.label_key = columns
        self.download = download

    @cached_property
    def shards(self) -> Sequence[str]:
        files = (self._builder.config.data_files or {}).get(self.split, [])
        num = self._rows.num_shards
        return (
            [str(file) for file in files] if len(files) == num else [f"part {part} of {num} of {self.name}" for part in range(num)]
        )

    def items(self, shard: int) -> Iterator[StreamItem]:
        for number, row in enumerate(self._read(self._rows, shard)):
            yield StreamItem(f"row {number} of {self.shards[shard]}", row[self.image_key])

    def known(self, shard: int, reads_captions: bool) -> Iterator[Known]:
        keys = [key for key, is_wanted in ((self.label_key, True), (self.caption_key, reads_captions)) if key and is_wanted]
        if "columns" in {each.name for each in fields(self._builder.config)}:  # as Parquet has them
            light = [key for key in self._rows.features if key != self.image_key]
            rows = self._load(columns=keys or light[:1] or [self.image_key])
        else:
            rows = self._rows
        for row in self._read(rows, shard):
            label = row[self.label_key] if self.label_key else None
            text = row[self.caption_key] if self.caption_key and reads_captions else None
            yield Known(label, (text.strip() or None) if isinstance(text, str) else None)

    def open(self, item: StreamItem) -> Image.Image:
        return stored_image(item.image, dataset_folders(self.name), self._rows.features[self.image_key].mode)

    @property
    def classes(self) -> Sequence[str] | None:
        return None if self.label_key is None else self._rows.features[self.label_key].names

    @property
    def has_metadata(self) -> tuple[bool, bool]:
        return self.label_key is not None, self.caption_key is not None

    @property
    def num_items(self) -> int | None:
        splits = self._builder.info.splits
        return None if not splits or self.split not in splits else splits[self.split].num_examples or None

    def fingerprint(self) -> str:
        keys = (self.image_key, self.caption_key, self.label_key)
        return repr((self._builder.hash, self._builder.config_id, self.split, keys, self._states))

    @property
    def _states(self) -> list[tuple[str, int, int]]:
        """The names, sizes and modification times of the local files."""
        paths = [Path(name) for name in self.shards if Path(name).is_file()]
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]

    @cached_property
    def _builder(self) -> Any:
        """The dataset before it is loaded. Raises UserError if it cannot be found, or names files outside its folder."""
        folder = user_path(self.name)
        if folder.is_dir():
            refuse_foreign_files(folder)
            if is_saved(folder):
                raise UserError(f"data.name={self.name}: is mapped into memory as it is; leave out data.streaming=true")
        elif not self.download:
            raise UserError(f"data.name={self.name}: there is no such folder, and a stream of the hub needs data.download=true")
        return self._call(
            lambda datasets: datasets.load_dataset_builder(str(folder) if folder.is_dir() else self.name, self.subset)
        )

    @cached_property
    def _rows(self) -> Any:
        """The rows of the split, with undecoded images. Raises UserError if a column is missing or of another type."""
        rows, columns = self._load(), {"image_key": self.image_key, "caption_key": self.caption_key, "label_key": self.label_key}
        if rows.features is None:
            raise UserError(f"data.name={self.name}: does not say which columns it has, and cannot be streamed")
        for key, column in columns.items():
            if column is not None and column not in rows.features:
                found = ", ".join(rows.features)
                raise UserError(f"data.{key}={column}: {self.name} has no such column, it has {found}; null does without")
        import datasets

        if not isinstance(rows.features[self.image_key], datasets.Image):
            raise UserError(f"data.image_key={self.image_key}: need a column of type Image, got {rows.features[self.image_key]}")
        if self.label_key is not None and not isinstance(rows.features[self.label_key], datasets.ClassLabel):
            raise UserError(f"data.label_key={self.label_key}: need a column of type ClassLabel, of {self.name}")
        return rows.cast_column(self.image_key, datasets.Image(mode=rows.features[self.image_key].mode, decode=False))

    def _load(self, **options: Any) -> Any:
        folder = user_path(self.name)
        place = str(folder) if folder.is_dir() else self.name
        found = self._call(lambda datasets: datasets.load_dataset(place, self.subset, streaming=True, **options))
        if self.split not in found:
            raise UserError(f"{self.name} has no split {self.split!r}, it has {', '.join(map(str, found))}: set data.split")
        return found[self.split]

    def _call(self, load: Any) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise UserError("data=huggingface needs Hugging Face's datasets: pip install 'alphabar[huggingface]'") from error
        try:
            return load(datasets)
        except Exception as error:  # any kind: the network, files and several libraries are involved
            raise UserError(f"data.name={self.name}: cannot load this dataset ({first_sentence(error)})") from error

    def _read(self, rows: Any, shard: int) -> Iterator[dict[str, Any]]:
        """Yields the rows of a shard. Raises UserError, with the name of the shard, if it cannot be read."""
        try:
            yield from rows.shard(len(self.shards), shard)
        except Exception as error:  # any kind, as above
            raise UserError(f"{self.shards[shard]}: cannot be read: {first_sentence(error)}") from error
