"""Streams of images that are read sequentially, and the positions at which they are read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any, NamedTuple

from PIL import Image

from alphabar.data.image_sets.decoded import PictureReader
from alphabar.errors import UserError

NEARBY = (
    1024  # items that are read through rather than jumped over, and at least kept, since threads ask for them in no exact order
)
MAX_REFERENCE = 50_000  # images with which others are compared, so that no figure waits for the end of a long stream
NUM_CURSORS = 2  # places at which a stream is read at once: training, and what measures


class Known(NamedTuple):
    """The label and the caption of an item; None for those that it does not have."""

    label: int | None
    caption: str | None


class StreamItem(NamedTuple):
    """An item of a stream: its name in messages, and its image as it is stored."""

    name: str
    image: Any


class ImageStream(ABC):
    """A sequence of items in a fixed order, in one or several shards, which are read sequentially."""

    @property
    @abstractmethod
    def shards(self) -> Sequence[str]:
        """The names of the shards in messages."""

    @abstractmethod
    def items(self, shard: int) -> Iterator[StreamItem]:
        """Yields the items of a shard; none is decoded. Raises UserError, which names the shard, where it cannot be read."""

    @abstractmethod
    def known(self, shard: int, reads_captions: bool) -> Iterator[Known]:
        """Yields the metadata of the same items, if possible without reading their images. Raises UserError as `items` does."""

    @abstractmethod
    def open(self, item: StreamItem) -> Image.Image:
        """Returns the image of an item. Raises an error of any kind if it cannot be decoded."""

    @property
    @abstractmethod
    def classes(self) -> Sequence[str] | None:
        """The names of the classes of the labels, or None where only their numbers are known."""

    @property
    @abstractmethod
    def has_metadata(self) -> tuple[bool, bool]:
        """Whether items must have a label, and whether they must have a caption."""

    @property
    @abstractmethod
    def num_items(self) -> int | None:
        """The number of items, or None if it is not known without reading them."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a key that is equal for equal content, as far as names, sizes and times tell; reads no items."""


class Cursor:
    """A position in a stream from which it is read on, with the items of the last blocks.

    counts: the number of items of each shard, by which shards before `start` are skipped unopened; None if it is not known.
    """

    def __init__(self, stream: ImageStream, counts: Sequence[int] | None, start: int, window: int) -> None:
        self.next = start
        self.window = window
        self.kept: dict[int, StreamItem] = {}
        self._items = _items_from(stream, counts, start)

    def is_near(self, position: int) -> bool:
        """Returns whether an item is kept, or comes within the next `window` items."""
        return position in self.kept or self.next <= position < self.next + self.window

    def item(self, position: int) -> StreamItem | None:
        """Returns the item at an index for which `is_near` holds; None if the stream ends before it."""
        while self.next <= position:
            item = next(self._items, None)
            if item is None:
                return None
            self.kept[self.next] = item
            self.next += 1
            self.kept.pop(self.next - 1 - 2 * self.window, None)
        return self.kept[position]


def _items_from(stream: ImageStream, counts: Sequence[int] | None, start: int) -> Iterator[StreamItem]:
    """Yields the items of a stream from index `start` on; earlier items of the same shard are read and not decoded."""
    for shard in range(len(stream.shards)):
        if counts is not None and start >= counts[shard]:
            start -= counts[shard]
            continue
        passed = 0
        for item in stream.items(shard):
            passed += 1
            if passed > start:
                yield item
        if counts is not None and passed != counts[shard]:
            raise UserError(f"{stream.shards[shard]} ends after {passed:,} items, it had {counts[shard]:,} when they were counted")
        start = max(start - passed, 0)


class StreamReader(PictureReader):
    """Reads the images `first` to `first + num` - 1 of a stream in any order; only sequential access is fast.

    Each `Cursor` keeps 2 * max(block_size, NEARBY) undecoded items.
    """

    def __init__(self, stream: ImageStream, counts: Sequence[int] | None, first: int, num: int, block_size: int) -> None:
        self.stream, self.counts = stream, counts
        self.first, self.num = first, num
        self.window = max(block_size, NEARBY)
        self._cursors: list[Cursor] = []  # the one that was used last is the last one
        self._lock = Lock()

    def __len__(self) -> int:
        return self.num

    @property
    def max_reference(self) -> int | None:
        return MAX_REFERENCE

    def read(self, index: int) -> Image.Image:
        return self.stream.open(self._item(index))

    def name(self, index: int) -> str:
        with self._lock:
            kept = [cursor.kept[self.first + index] for cursor in self._cursors if self.first + index in cursor.kept]
        return kept[0].name if kept else f"image {self.first + index} of the stream"

    def _item(self, index: int) -> StreamItem:
        position = self.first + index
        with self._lock:
            cursor = next((each for each in reversed(self._cursors) if each.is_near(position)), None)
            if cursor is None:
                start = self.first + index // self.window * self.window
                cursor = Cursor(self.stream, self.counts, start, self.window)
            else:
                self._cursors.remove(cursor)
            self._cursors = [*self._cursors[1 - NUM_CURSORS :], cursor]
            item = cursor.item(position)
        if item is None:
            raise UserError(
                f"{self.stream.shards[-1]}: the stream ends after {cursor.next:,} images, {self.first + self.num:,} were expected"
            )
        return item
