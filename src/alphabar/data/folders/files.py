"""Files of a folder, which of them are images, and a fingerprint of those."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from alphabar.errors import UserError
from alphabar.files.reading import image_suffixes

EXAMPLES = ".png, .jpg, .webp and others that Pillow decodes"
MAX_KINDS = 8
FolderId = tuple[int, int]  # device and inode
GONE = -1  # in the place of the size and the time of change of a file that is not there


class Entry(NamedTuple):
    """A file or a folder; `name` is relative to the folder that is listed, with forward slashes."""

    name: str
    is_folder: bool


def folder_entries(root: Path) -> Iterator[Entry]:
    """Yields all that is in a folder and its subfolders, each before its content and in a fixed order, but for what is hidden.

    Links are followed, but never into a folder that they are in. Raises UserError for a folder that cannot be read.
    """
    open_folders: list[tuple[FolderId, Iterator[Entry]]] = []  # those on the way to the current one

    def enter(name: str) -> None:
        identity, entries = _list_folder(root, name)
        if all(identity != other for other, _ in open_folders):
            open_folders.append((identity, entries))

    enter("")
    while open_folders:
        entry = next(open_folders[-1][1], None)
        if entry is None:
            open_folders.pop()
            continue
        yield entry
        if entry.is_folder:
            enter(entry.name)


def _list_folder(root: Path, name: str) -> tuple[FolderId, Iterator[Entry]]:
    """Returns device and inode of the folder `name` under `root`, and an iterator over what is in it, in a fixed order."""
    folder = root / name
    try:
        stat = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    prefix = f"{name}/" if name else ""
    shown = (entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX")
    return (stat.st_dev, stat.st_ino), (Entry(f"{prefix}{entry.name}", _is_folder(entry)) for entry in shown)


def image_files(root: Path) -> Iterator[str]:
    """Yields the names of all images in a folder and its subfolders, as `folder_entries` does."""
    return (entry.name for entry in folder_entries(root) if is_image(entry))


def is_image(entry: Entry) -> bool:
    """Returns whether an entry is a file with the suffix of an image, in upper or lower case."""
    return not entry.is_folder and entry.name.lower().endswith(image_suffixes())


def count_kinds(names: Iterable[str]) -> str:
    """Returns how many of the files have which suffix, the most frequent ones first: "30 .heic, 1 .txt"."""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without a suffix" for name in names).most_common()
    rest = sum(number for _, number in kinds[MAX_KINDS:])
    return ", ".join([f"{number:,} {kind}" for kind, number in kinds[:MAX_KINDS]] + ([f"{rest:,} others"] if rest else []))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a folder or a link to one; a link to itself is neither."""
    try:
        return entry.is_dir()
    except OSError:
        return False


class FileStates:
    """The sizes and times of change of the files `names` under `root`, wherever that is, as they are when this is made.

    Each file is looked up once, and takes 16 bytes beside its name: there may be millions, on a slow file system.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.names = sorted(names)
        states = np.fromiter((_state(root / name) for name in self.names), np.dtype((np.int64, 2)), len(self.names))
        self.sizes, self.times = states.T

    def fingerprint(self, settings: tuple[object, ...]) -> str:
        """Returns a hash of `settings` and of names, sizes and times of change."""
        content = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        for name, size, changed in zip(self.names, map(int, self.sizes), map(int, self.times), strict=True):
            state = (name, None) if size == GONE else (name, size, changed)
            content.update(repr(state).encode(errors="surrogateescape"))
        return content.hexdigest()

    def names_and_sizes(self) -> str:
        """Returns a hash of names and sizes, which stays the same where the files are copied."""
        content = hashlib.blake2b(digest_size=16)
        for normal, _, size in sorted(
            (unicodedata.normalize("NFC", name), name, int(size)) for name, size in zip(self.names, self.sizes, strict=True)
        ):
            content.update(repr((normal, None if size == GONE else size)).encode(errors="surrogateescape"))
        return content.hexdigest()


def _state(path: Path) -> tuple[int, int]:
    """Returns the size and the time of change of a file; GONE for a link to nowhere, a file that cannot be read, like others."""
    try:
        stat = path.stat()
    except OSError:
        return GONE, GONE
    return stat.st_size, stat.st_mtime_ns


def hash_position(name: str) -> float:
    """Returns a hash of a file's name in [0, 1)."""
    key = unicodedata.normalize("NFC", name)  # one name, though file systems spell accents in two ways
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48
