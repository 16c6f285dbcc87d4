"""Decodes images once into the folder of `data=prepared`: the command prepare.py."""

import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.pytorch import LightningDataModule

from alphabar.data import ImageSet, ImageSource, ReadImages
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.image_sets.decoded import CHUNK, NUM_THREADS
from alphabar.data.sources.own_datamodule import adapted
from alphabar.data.sources.prepared import (
    HEADER,
    IMAGES,
    MANIFEST,
    METADATA,
    NAMES,
    SKIPPED,
    TEXTS,
    VERSION,
    Manifest,
    head_of,
    images_header,
    read_manifest,
)
from alphabar.errors import UserError
from alphabar.files.atomic import atomic_writer, changed_in_place, remove_temporaries, write_errors, write_text
from alphabar.files.paths import user_path
from alphabar.files.reading import read_bytes
from alphabar.progress import show_progress
from alphabar.runs.checkpoints.restored import must_be_like

JOURNAL, LOCK = "progress.json", ".lock"
GROWING = (IMAGES, NAMES, SKIPPED)  # files that are only appended to
SECONDS = 5.0  # between two writes of the journal
MOST_JOURNAL = 2**16  # bytes


class PreparedFolder(NamedTuple):
    """The outcome of a preparation. num_read: the number of images that this command read; 0 if the folder was finished before."""

    folder: Path
    manifest: Manifest
    num_bytes: int
    num_read: int
    seconds: float


@dataclass
class Journal:
    """The state of a preparation, as far as its files are flushed to the disk.

    source: the fingerprint of the data. content: a hash of the images. sizes: the sizes of the files `GROWING`, in bytes.
    """

    source: str
    num_read: int
    num_kept: int
    content: str
    sizes: list[int]


@dataclass(frozen=True)
class Preparation:
    """The command that decodes all images of `data`, once, into the folder `to`, see `PreparedSource`.

    A command that was stopped goes on when it is repeated, after the last images that were flushed to the disk. A folder that
    holds anything else is not touched. Images that cannot be read are left out and named in `skipped.jsonl`, with the reason.
    """

    data: LightningDataModule
    to: str

    def __post_init__(self) -> None:
        if not isinstance(self.data, ImageDataModule):
            return
        if self.data.crops:
            raise ValueError("data.crop=random: images are cropped once here, in their centre; leave it out")
        if self.data.buckets is not None:
            raise ValueError("data.buckets: images are cropped to one size here; leave them out")

        if self.data.bits != 8:
            raise ValueError(f"data.bits={self.data.bits}: prepared images have 8 bits; use the data as they are")

    def run(self) -> PreparedFolder:
        """Prepares the images. Raises UserError if the folder holds anything else, or the disk has no room for all images."""
        begin, folder = time.monotonic(), user_path(self.to).absolute()
        source = (self.data if isinstance(self.data, ImageDataModule) else adapted(self.data, seed=0)).source
        source.prepare()
        splits = source.train(), source.held_out()
        fingerprint = source.fingerprint()
        if (folder / MANIFEST).is_file():
            if read_manifest(folder).source != fingerprint:
                raise UserError(f"to={self.to}: is prepared from other images or with other settings; name another folder")
            return _outcome(folder, 0, begin)
        journal = self._begun(folder, fingerprint)
        self._check_room(folder, splits, journal)
        with _made_alone(folder, self.to):
            journal = self._begun(folder, fingerprint)
            before = journal.num_read
            remove_temporaries(folder)
            _write_journal(folder, journal)  # before the files, which a command that is repeated knows by it
            with ExitStack() as stack:
                files = [
                    stack.enter_context(_continued(folder / name, size)) for name, size in zip(GROWING, journal.sizes, strict=True)
                ]
                _write_images(splits, journal, files, folder)
            _finish(folder, source, splits, journal)
        return _outcome(folder, journal.num_read - before, begin)

    def _begun(self, folder: Path, fingerprint: str) -> Journal:
        """Returns the journal of an earlier command, or a new one. Raises UserError if the folder holds anything else."""
        new = Journal(fingerprint, 0, 0, "", [0] * len(GROWING))
        if not folder.exists() or (folder.is_dir() and all(name.startswith(".") for name in os.listdir(folder))):
            return new
        path = folder / JOURNAL
        if not path.is_file():
            raise UserError(f"to={self.to}: is not empty; name a folder that does not exist yet")
        try:
            content = json.loads(read_bytes(path, most=MOST_JOURNAL))
            must_be_like(content, vars(new), str(path))
            found = Journal(**{key: content[key] for key in Journal.__dataclass_fields__})
            is_whole = all(
                not size or (folder / name).stat().st_size >= size for name, size in zip(GROWING, found.sizes, strict=True)
            )
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"to={self.to}: {path} is damaged, remove the folder: {' '.join(str(error).split())}") from error
        if not is_whole:
            raise UserError(f"to={self.to}: is damaged, its files are shorter than {JOURNAL} says; remove it")
        if found.source != fingerprint:
            raise UserError(f"to={self.to}: was begun with other images or settings; name another folder, or remove it")
        return found

    def _check_room(self, folder: Path, splits: Sequence[ImageSet], journal: Journal) -> None:
        """Raises UserError unless the disk has room for the images that are still to come."""
        num, size = sum(map(len, splits)), prod(splits[0].shape)
        place = next(each for each in (folder, *folder.parents) if each.exists())
        needed, free = (num - journal.num_read) * size, shutil.disk_usage(place).free
        if needed > free:
            gigabytes = f"{needed / 1e9:.3g} GB for {num - journal.num_read:,} images"
            raise UserError(f"to={self.to}: need {gigabytes} of {size:,} bytes, {place} has {free / 1e9:.3g} GB left")


@contextmanager
def _made_alone(folder: Path, name: str) -> Iterator[None]:
    """Creates the folder and keeps other processes from writing into it. Raises UserError if one does."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"to={name}: another process is preparing it") from error
    try:
        yield
        (folder / LOCK).unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def _continued(path: Path, size: int) -> Iterator[BinaryIO]:
    """Opens a file for appending after its first `size` bytes; bytes that a stopped command wrote after them are cut off."""
    with write_errors(path):
        path.touch()
    with changed_in_place(path) as file:
        file.truncate(size)
        file.seek(size)
        yield file


def _write_images(splits: Sequence[ImageSet], journal: Journal, files: Sequence[BinaryIO], folder: Path) -> None:
    """Appends all images that are not written yet, and writes the journal every few seconds."""
    images, names, skipped = files
    total = sum(map(len, splits))
    noted_at = time.monotonic()
    if not journal.num_read:
        images.write(bytes(HEADER))  # in whose place the header is written at the end
    with show_progress("preparing images", total - journal.num_read, "img") as bar:
        for num, read in _pieces(splits, journal.num_read):
            with write_errors(folder):
                images.write(read.pixels.numpy().data)
                names.write("".join(f"{json.dumps(name)}\n" for name in read.names).encode())
                for image, problem in read.problems.items():
                    skipped.write(f"{json.dumps({'image': image, 'problem': problem})}\n".encode())
            part = hashlib.blake2b(read.pixels.numpy().data, digest_size=16).hexdigest()
            journal.content = hashlib.blake2b(f"{journal.content}{part}".encode(), digest_size=16).hexdigest()
            journal.num_read += num
            journal.num_kept += len(read.pixels)
            bar.update(num)
            if time.monotonic() - noted_at > SECONDS or journal.num_read == total:
                _flush(journal, files, folder)
                noted_at = time.monotonic()


def _flush(journal: Journal, files: Sequence[BinaryIO], folder: Path) -> None:
    """Flushes the files to the disk and then writes their sizes to the journal, which so never promises too much."""
    with write_errors(folder):
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    journal.sizes = [file.tell() for file in files]
    _write_journal(folder, journal)


def _write_journal(folder: Path, journal: Journal) -> None:
    write_text(folder / JOURNAL, json.dumps(vars(journal)))


def _pieces(splits: Sequence[ImageSet], start: int) -> Iterator[tuple[int, ReadImages]]:
    """Yields chunks of the images of all splits, from image `start` on: the number of images, and those that can be read.

    Threads read a few chunks ahead. The indices in `ReadImages.problems` are counted over all splits.
    """
    pool, waiting = ThreadPoolExecutor(NUM_THREADS), deque[tuple[int, int, Future[ReadImages]]]()
    try:
        offset = 0
        for images in splits:
            for first in range(0, len(images), CHUNK):
                stop = min(first + CHUNK, len(images))
                if offset + stop <= start:
                    continue
                waiting.append((stop - first, offset, pool.submit(images.read, first, stop)))
                if len(waiting) > 2 * NUM_THREADS:
                    yield _piece(*waiting.popleft())
            offset += len(images)
        while waiting:
            yield _piece(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _piece(num: int, offset: int, future: "Future[ReadImages]") -> tuple[int, ReadImages]:
    read = future.result()
    return num, read._replace(problems={offset + index: problem for index, problem in read.problems.items()})


def _finish(folder: Path, source: ImageSource, splits: Sequence[ImageSet], journal: Journal) -> None:
    """Writes the metadata, the header of the image file and, last, the manifest. Raises UserError if no image can be read."""
    lines = (folder / SKIPPED).read_text(encoding="utf-8").splitlines()
    skipped = [json.loads(line)["image"] for line in lines]
    if not journal.num_kept:
        raise UserError(f"none of {journal.num_read:,} images can be read: {json.loads(lines[0])['problem']}")
    is_kept = torch.ones(journal.num_read, dtype=torch.bool)
    is_kept[skipped] = False
    rows = [torch.nonzero(part).flatten() for part in is_kept.split([len(images) for images in splits])]
    if not len(rows[0]):
        raise UserError(f"none of {len(splits[0]):,} images to train on can be read: {json.loads(lines[0])['problem']}")
    known = [images.metadata(kept) for images, kept in zip(splits, rows, strict=True) if len(images)]
    arrays = {f"{name}s": torch.cat([part[name].cpu() for part in known]).numpy() for name in known[0]}
    texts = {name: found for name, found in (("classes", source.classes), ("captions", source.captions)) if found is not None}
    with atomic_writer(folder / METADATA) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    write_text(folder / TEXTS, json.dumps({name: list(found) for name, found in texts.items()}))
    with changed_in_place(folder / IMAGES) as file:
        file.write(images_header(journal.num_kept, source.shape))
        file.flush()
        os.fsync(file.fileno())
    content = hashlib.blake2b(journal.content.encode(), digest_size=16)
    for part in (*(f"{name} {values.tobytes()!r}" for name, values in arrays.items()), repr(texts)):
        content.update(part.encode(errors="surrogateescape"))
    num_train, num_held_out = map(len, rows)
    facts = (source.symmetric, len(skipped), journal.source, content.hexdigest(), head_of(folder / IMAGES))
    manifest = Manifest(VERSION, num_train, num_held_out, *source.shape, *facts)
    write_text(folder / MANIFEST, manifest.to_json())
    (folder / JOURNAL).unlink()


def _outcome(folder: Path, num_read: int, begin: float) -> PreparedFolder:
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return PreparedFolder(folder, read_manifest(folder), num_bytes, num_read, time.monotonic() - begin)
