"""Paths as users write and read them, relative to the folder in which the command was started, and paths that are not in use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from alphabar.errors import printable

_start_folder = Path()  # the working directory, unless Hydra has changed it
_cache_folder = "outputs/cache"


@contextmanager
def starting_in(folder: str | Path) -> Iterator[None]:
    """Makes relative paths of the user start in `folder`; `hydra.job.chdir=true` moves the process to that of its run."""
    global _start_folder
    before = _start_folder
    _start_folder = Path() if Path(folder).absolute() == Path.cwd() else Path(folder).absolute()
    try:
        yield
    finally:
        _start_folder = before


@contextmanager
def caching_in(folder: str) -> Iterator[None]:
    """Makes `folder` that of this command's caches, `paths.cache`."""
    global _cache_folder
    before = _cache_folder
    _cache_folder = folder
    try:
        yield
    finally:
        _cache_folder = before


def cache_folder() -> Path:
    """Returns the folder of this command's caches, as the user gave it."""
    return Path(_cache_folder)


def user_path(path: str | Path) -> Path:
    """Returns the path that a user gave, which may be relative or begin with ~, as one that can be opened."""
    return _start_folder / os.path.expanduser(path)  # unlike that of Path, it leaves ~ as it is where there is no home


def display_path(path: str | Path) -> str:
    """Returns the path as the user would type it, in the shell in which the command was started."""
    path, start = Path(path), _start_folder.absolute()
    return printable(str(path.relative_to(start) if path.is_relative_to(start) else path))


def unused_path(path: Path) -> Path:
    """Returns the path or, if it exists, the first of name_2, name_3, ... that does not, with the same suffix."""
    numbered = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in count(2))
    return path if not path.exists() else next(each for each in numbered if not each.exists())
