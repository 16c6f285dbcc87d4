"""WebDataset: images and their metadata in tar files, in which the files 0017.jpg, 0017.txt and 0017.cls are one item."""

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

from PIL import Image

from alphabar.data.datamodule import ImageDataModule
from alphabar.data.folders.files import FileStates
from alphabar.data.loading.options import Loading
from alphabar.data.streaming.stream_source import StreamSource
from alphabar.data.streaming.streams import ImageStream, Known, StreamItem
from alphabar.errors import DataNotFound, UserError
from alphabar.files.paths import user_path
from alphabar.files.reading import image_suffixes, must_be_file, open_image
from alphabar.resolution import Resolution

ADVICE = ": data.shards names .tar files, photos-{000..009}.tar or photos-*.tar, or a folder of them"
END = bytes(512)  # the block after the last file in a tar file
KEY, URL = "__key__", "__url__"  # of an item, as the library has it
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
MAX_SHARDS, MAX_BRACES = 10**6, 2  # which a path out of a file could multiply without end
SHOWN = 100  # the most characters of a path in a message
Sample = dict[str, Any]


class WebDatasetStream(ImageStream):
    """The items of local tar files in the order of their names; compressed ones, which may unpack to any size, are refused.

    shards: a path with {000..009} or * in it, or a folder, or a list of paths. image_key: the suffix of images; None: the first
    that Pillow decodes. caption_key, label_key: the suffixes of the files with a caption, and with the number of a class; None:
    there are none.
    Raises DataNotFound if there are no such files, and UserError without the library.
    """

    def __init__(self, shards: str | Sequence[str], image_key: str | None, caption_key: str | None, label_key: str | None) -> None:
        self.paths = find_shards(shards)
        self.keys = image_key, caption_key, label_key

    @cached_property
    def shards(self) -> Sequence[str]:
        return [str(path) for path in self.paths]

    def items(self, shard: int) -> Iterator[StreamItem]:
        image_key = self.keys[0]
        for sample in self._samples(shard, is_scan=False):
            suffixes = [image_key] if image_key else [name for name in sample if f".{name}" in image_suffixes()]
            image = next((sample[name] for name in suffixes if name in sample), None)
            yield StreamItem(f"{sample[KEY]} in {self.paths[shard]}", image)

    def known(self, shard: int, reads_captions: bool) -> Iterator[Known]:
        _, caption_key, label_key = self.keys
        for sample in self._samples(shard, is_scan=True):
            label, caption = (sample.get(key) if key else None for key in (label_key, caption_key))
            try:
                text = (caption or b"").decode().strip() if reads_captions else ""
                yield Known(None if label is None else int(label), text or None)
            except ValueError as error:
                name = f"{sample[KEY]} in {self.paths[shard]}"
                raise UserError(f"{name}: need UTF-8 as its caption, and a number as its label, {label_key or 'cls'}") from error

    def open(self, item: StreamItem) -> Image.Image:
        if item.image is None:
            raise ValueError("there is no image beside the other files of this item")
        return open_image(io.BytesIO(item.image))

    @property
    def classes(self) -> Sequence[str] | None:
        return None

    @property
    def has_metadata(self) -> tuple[bool, bool]:
        return self.keys[2] is not None, self.keys[1] is not None

    @property
    def num_items(self) -> int | None:
        return None

    def fingerprint(self) -> str:
        return self.states.fingerprint(self.keys)

    @cached_property
    def states(self) -> FileStates:
        root = Path(os.path.commonpath([path.parent for path in self.paths]))
        return FileStates(root, [str(path.relative_to(root)) for path in self.paths])

    def _samples(self, shard: int, is_scan: bool) -> Iterator[Sample]:
        """Yields the items of a shard as the library groups its files; is_scan: without the content of images.

        Raises UserError for a file that is no tar file, or is cut.
        """
        from webdataset import tariterators

        path = self.paths[shard]
        try:
            must_be_file(path)
            with path.open("rb") as file:
                files = _small_files(path, self.keys[1:]) if is_scan else tariterators.tar_file_iterator(file)  # type: ignore[arg-type]
                yield from tariterators.group_by_keys({**each, URL: str(path)} for each in files)
        except UserError:
            raise
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{path} is cut or no plain tar file: {reason}") from error


def _small_files(path: Path, keys: Sequence[str | None]) -> Iterator[Sample]:
    """Yields the files in a shard; the content of files without one of the suffixes `keys` is skipped.

    Raises UserError for a file whose header states more bytes than the shard has.
    """
    from webdataset.tariterators import base_plus_ext

    size = path.stat().st_size
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.size > size or member.issparse():
                raise UserError(f"{path}: {member.name} promises {member.size:,} bytes, which cannot be in a file of {size:,}")
            _, suffix = base_plus_ext(member.name)
            if not member.isreg() or suffix is None or member.name.startswith("__"):
                continue
            file = archive.extractfile(member) if suffix.lower() in keys else None
            yield {"fname": member.name, "data": b"" if file is None else file.read()}
            archive.members = []  # type: ignore[attr-defined]  # which would grow with the shard
        with path.open("rb") as file:
            file.seek(archive.offset)  # type: ignore[attr-defined]  # behind the last member
            if file.read(len(END)) != END:
                raise tarfile.ReadError(f"it ends after {archive.offset:,} bytes without the mark of its end")  # type: ignore[attr-defined]


def find_shards(shards: str | Sequence[str]) -> list[Path]:
    """Returns the files that `data.shards` names, in order.

    Raises DataNotFound if there are none, and UserError without the library, or for too many.
    """
    try:
        from braceexpand import braceexpand
        from webdataset import tariterators  # noqa: F401
    except ImportError as error:
        raise UserError("data=webdataset needs the library of that name: pip install 'alphabar[webdataset]'") from error
    found: list[Path] = []
    for name in [shards] if isinstance(shards, str) else shards:
        if any(abs(int(last) - int(first)) >= MAX_SHARDS for first, last in RANGE.findall(name)) or name.count("{") > MAX_BRACES:
            raise UserError(f"data.shards={name[:SHOWN]}: need at most {MAX_SHARDS:,} files and {MAX_BRACES} braces")
        for each in islice(braceexpand(name), MAX_SHARDS):
            path = user_path(each).absolute()
            if path.is_dir():
                found += sorted(path.glob("*.tar"))
            elif "*" in path.name:
                found += sorted(path.parent.glob(path.name))
            elif path.exists():
                found.append(path)
            else:
                raise DataNotFound(f"there is no file {path}", ADVICE)
    if not found:
        raise DataNotFound(f"data.shards={shards}: there are no such files", ADVICE)
    return found


class WebDatasetSource(StreamSource):
    """A source of the images in tar files, see `WebDatasetStream`."""

    def image_files(self) -> dict[str, Any]:
        content = [stream.states.names_and_sizes() for stream in self.streams if isinstance(stream, WebDatasetStream)]
        digest = hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()
        return {"num": sum(index.num for index in self._indices), "names_and_sizes": digest}


class WebDataset(ImageDataModule):
    """The data module of `WebDatasetStream`, see `StreamSource`; threads of this process decode."""

    def __init__(
        self,
        shards: str | Sequence[str],
        resolution: Resolution,
        *,
        channels: int = 3,
        held_out_shards: str | Sequence[str] | None = None,
        held_out: float = 0.1,
        image_key: str | None = None,
        caption_key: str | None = "txt",
        label_key: str | None = "cls",
        classes: Sequence[str] | None = None,
        num_images: int | None = None,
        shuffle_buffer: int = 5000,
        strict: bool = False,
        **loading: Unpack[Loading],
    ) -> None:
        keys = image_key, caption_key, label_key
        others = None if held_out_shards is None else WebDatasetStream(held_out_shards, *keys)
        shape = resolution, channels, held_out, strict
        source = WebDatasetSource(WebDatasetStream(shards, *keys), others, *shape, num_images, shuffle_buffer, classes)
        super().__init__(source, **loading)
