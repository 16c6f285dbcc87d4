"""Files of a folder, which of them are images, and a fingerprint of those."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alphabar.errors import UserError
from alphabar.files.reading import image_suffixes

EXAMPLES = ".png, .jpg, .webp and others that Pillow decodes"
MAX_KINDS = 8


class Entry(NamedTuple):
    """A file or a folder; `name` is relative to the folder that is listed, with forward slashes."""

    name: str
    is_folder: bool


def walk(root: Path, inside: tuple[str, ...] = (), above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Entry]:
    """Yields all that is in a folder and its subfolders, in a fixed order, but for what is hidden.

    Links are followed, but never into a folder that they are in.
    """
    folder = root.joinpath(*inside)
    try:
        stat = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    identity = (stat.st_dev, stat.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        is_folder = _is_folder(entry)
        yield Entry("/".join((*inside, entry.name)), is_folder)
        if is_folder:
            yield from walk(root, (*inside, entry.name), above | {identity})


def image_files(root: Path) -> Iterator[str]:
    """Yields the names of all images in a folder and its subfolders, as `walk` does."""
    return (entry.name for entry in walk(root) if is_image(entry))


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


def fingerprint(root: Path, names: Iterable[str], settings: tuple[float | str, ...]) -> str:
    """Returns a hash of `settings` and of name, size and time of change of the files `names` under `root`, wherever that is."""
    content = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for name in sorted(names):
        stat = _stat(root / name)
        state = (name, None) if stat is None else (name, stat.st_size, stat.st_mtime_ns)
        content.update(repr(state).encode(errors="surrogateescape"))
    return content.hexdigest()


def names_and_sizes(root: Path, names: Iterable[str]) -> str:
    """Returns a hash of name and size of the files `names` under `root`, which stays the same where they are copied."""
    content = hashlib.blake2b(digest_size=16)
    for normal, name in sorted((unicodedata.normalize("NFC", name), name) for name in names):
        stat = _stat(root / name)
        content.update(repr((normal, None if stat is None else stat.st_size)).encode(errors="surrogateescape"))
    return content.hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    """Returns the state of a file; None for a link to nowhere, which is a file that cannot be read, like others."""
    try:
        return path.stat()
    except OSError:
        return None
