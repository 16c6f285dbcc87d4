"""Sources of images that are read sequentially: they do not fit on the disk, or are not listed file by file."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

from alphabar.data import ImageSet
from alphabar.data.image_sets.decoded import DecodedSource
from alphabar.data.streaming.stream_index import VERSION, StreamIndex, read_index
from alphabar.data.streaming.streams import MAX_REFERENCE, ImageStream, StreamReader
from alphabar.errors import UserError
from alphabar.files.cache import DiskCache
from alphabar.files.paths import cache_folder, user_path
from alphabar.resolution import Resolution


class StreamSource(DecodedSource):
    """A source of the images of a stream: the first ones are held out, the others are trained on in blocks of `shuffle_buffer`.

    Their number, labels and captions are taken from a cache, or the stream is read once without decoding its images.

    held_out_stream: images that are never trained on; None: the first round(held_out * N) of `stream`.
    num_images: the number of images that are used, the first ones of `stream`, which are then not counted unless labels or
        captions are read; None: all. class_names: the names of the classes; None: those of the stream, or their numbers.
    resolution, channels, held_out, strict: see `DecodedSource`, which raises ValueError; also unless num_images and
        shuffle_buffer are 1 or more.
    """

    def __init__(
        self,
        stream: ImageStream,
        held_out_stream: ImageStream | None,
        resolution: Resolution,
        channels: int,
        held_out: float,
        strict: bool,
        num_images: int | None,
        shuffle_buffer: int,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(resolution, channels, held_out, strict)
        for key, value in (("num_images", num_images), ("shuffle_buffer", shuffle_buffer)):
            if value is not None and value < 1:
                raise ValueError(f"need data.{key} >= 1, got {value}")
        self.streams = [stream] if held_out_stream is None else [stream, held_out_stream]
        self.num_images = num_images
        self.shuffle_buffer = shuffle_buffer
        self.class_names = class_names

    @property
    def block_size(self) -> int:
        return self.shuffle_buffer

    @property
    def remarks(self) -> dict[str, str]:
        num, part = self._indices[0].num, "" if len(self.streams) > 1 else f", held out are the first {self._num_held_out:,}"
        figures = f", figures compare with the first {MAX_REFERENCE:,}" if num > MAX_REFERENCE else ""
        return {"stream": f"read in blocks of {min(self.shuffle_buffer, num):,} images{part}{figures}"}

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        found = [index.labels for index in self._indices if index.labels is not None and len(index.labels)]
        if not found:
            return None
        most = max(int(labels.max()) for labels in found) + 1
        known = self.streams[0].classes if self.class_names is None else self.class_names
        names = tuple(map(str, range(most) if known is None else known))
        if min(int(labels.min()) for labels in found) < 0 or most > len(names):
            raise UserError(f"{self.streams[0].shards[0]}: there is a label {most - 1}, need 0 to {len(names) - 1} (data.classes)")
        return names

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        if not self.reads_captions:
            return None
        return tuple(sorted({text for index in self._indices for text in index.captions or ()})) or None

    def prepare(self) -> None:
        assert self._indices  # counted in one process; the others find it in the cache

    def train(self) -> ImageSet:
        num = self._indices[0].num
        if num <= self._num_held_out:
            raise UserError(f"no images of {self.streams[0].shards[0]} are left to train on: set data.held_out=0")
        return self._images(0, self._num_held_out, num)

    def held_out(self) -> ImageSet:
        part = len(self.streams) - 1
        return self._images(part, 0, self._indices[1].num if part else self._num_held_out)

    def fingerprint(self) -> str:
        settings = (*self._shape, self.fraction, self.num_images, self.class_names)
        parts = [(stream.fingerprint(), stream.has_metadata) for stream in self.streams]
        return hashlib.blake2b(repr((settings, parts)).encode(), digest_size=16).hexdigest()

    @property
    def _num_held_out(self) -> int:
        return 0 if len(self.streams) > 1 else round(self.fraction * self._indices[0].num)

    def _images(self, part: int, first: int, stop: int) -> ImageSet:
        index = self._indices[part]
        labels = None if index.labels is None else index.labels[first:stop]
        texts = None if index.captions is None or not self.reads_captions else index.captions[first:stop]
        reader = StreamReader(self.streams[part], index.counts, first, stop - first, self.shuffle_buffer)
        return self.decoded_images(reader, labels, texts)

    @cached_property
    def _indices(self) -> list[StreamIndex]:
        return [self._index(stream, limit) for stream, limit in zip(self.streams, (self.num_images, None), strict=False)]

    def _index(self, stream: ImageStream, limit: int | None) -> StreamIndex:
        """Returns the index of a stream, from the cache if it has been read before. Raises UserError if there are no images."""
        has_labels, has_captions = stream.has_metadata
        has_captions = has_captions and self.reads_captions
        num = stream.num_items if limit is None else limit
        if num is not None and not has_labels and not has_captions:
            return StreamIndex(num, None, None, None)
        cache = DiskCache(user_path(cache_folder()) / "streams")
        path = cache.path("index", VERSION, stream.fingerprint(), has_labels, has_captions)
        found = StreamIndex(**cache.load_or_make(path, lambda: read_index(stream, has_captions)._asdict()))
        if not found.num:
            raise UserError(f"there are no images in {stream.shards[0]}")
        if limit is not None and limit > found.num:
            raise UserError(f"data.num_images={limit}: there are {found.num:,} images")
        num = limit or found.num
        return found._replace(
            num=num, labels=None if found.labels is None else found.labels[:num], captions=(found.captions or [])[:num] or None
        )
