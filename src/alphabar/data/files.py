"""Image files of a folder, and a fingerprint of them."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from alphabar.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def image_files(root: Path, inside: tuple[str, ...] = (), above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yields the paths, relative to `root` and with forward slashes, of all images in it and its subfolders, in a fixed order.

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
        if _is_folder(entry):
            yield from image_files(root, (*inside, entry.name), above | {identity})
        elif entry.name.lower().endswith(SUFFIXES):
            yield "/".join((*inside, entry.name))


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
        try:
            stat = (root / name).stat()
            content.update(repr((name, stat.st_size, stat.st_mtime_ns)).encode(errors="surrogateescape"))
        except OSError:  # a link to nowhere is a file that cannot be read, like others
            content.update(repr((name, None)).encode(errors="surrogateescape"))
    return content.hexdigest()
