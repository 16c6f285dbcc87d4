"""A file with earlier versions of it beside it: last.ckpt, last-1.ckpt, last-2.ckpt, where 0 is the rank of last.ckpt itself."""

import os
import shutil
from pathlib import Path

from alphabar.files.atomic import atomic_writer, sync_folder, temporary_path


def version_path(path: Path, rank: int) -> Path:
    """Returns the path of the version of `path` at this rank."""
    return path if rank == 0 else path.with_name(f"{path.stem}-{rank}{path.suffix}")


def existing_versions(path: Path) -> dict[int, Path]:
    """Returns the versions of `path` that are there, by rank in ascending order."""
    names = {file.stem.removeprefix(f"{path.stem}-"): file for file in path.parent.glob(f"{path.stem}-*{path.suffix}")}
    others = {int(rank): file for rank, file in names.items() if rank.isdecimal() and file == version_path(path, int(rank))}
    return ({0: path} if path.is_file() else {}) | dict(sorted(others.items()))


def insert_version(new: Path, path: Path, keep: int, rank: int = 0) -> None:
    """Renames `new`, a finished file in the same folder, to the version of `path` at `rank`.

    The versions from `rank` on go one rank further, and the one that would get rank `keep` is replaced. Whenever the process ends
    in between, there is a whole file at `path` if there was one before, and of each of the others the old one or its successor.
    """
    for further in range(keep - 1, rank, -1):
        earlier = version_path(path, further - 1)
        if earlier == path and path.exists():
            link_or_copy(path, version_path(path, further))
        elif earlier.exists():
            os.replace(earlier, version_path(path, further))
    os.replace(new, version_path(path, rank))
    sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` a second name of the file `source`, or a copy where the file system has no such links; atomically."""
    temporary = temporary_path(target)
    try:
        os.link(source, temporary)
    except OSError:
        with atomic_writer(target) as copy, source.open("rb") as file:
            shutil.copyfileobj(file, copy)
        return
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # it stays where both were names of the same file already
