"""Interpretation of the folders in a folder of images: as splits, as classes, or as neither."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

TRAIN = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "dev", "test", "testing")
MAX_NAMED = 5


@dataclass(frozen=True)
class FolderLayout:
    """The meaning of the folders around the images `names`; all paths are relative to the root.

    Where the first level has a folder called train and one called test (or as in `TRAIN` and `HELD_OUT`, in upper or lower case),
    they are splits, and nothing else is used. The classes are the folders of the first level, or of the second where those of the
    first are splits or one called train, if all images lie in two or more of them.

    folders: all folders, also those without images.
    """

    names: Sequence[str]
    folders: Sequence[str]

    @cached_property
    def has_splits(self) -> bool:
        """Whether the folders of the first level say what is trained on and what is held out."""
        found = {folder.casefold() for folder in self.folders if "/" not in folder}
        return not found.isdisjoint(TRAIN) and not found.isdisjoint(HELD_OUT)

    @cached_property
    def used(self) -> list[str]:
        """The names of the images that are in a split, or of all if there are none."""
        return [name for name in self.names if _is_in(name, (*TRAIN, *HELD_OUT))] if self.has_splits else list(self.names)

    def is_held_out(self, name: str) -> bool:
        """Returns whether an image lies in a folder that is held out; only defined where there are splits."""
        return _is_in(name, HELD_OUT)

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes, sorted, or None if there are none."""
        found = {self.class_of(name) for name in self.used}
        return tuple(sorted(name for name in found if name)) if len(found) > 1 and None not in found else None

    def class_of(self, name: str) -> str | None:
        """Returns the folder on the level of the classes in which an image lies, or None if it lies in none."""
        parts = name.split("/")
        return parts[self._level] if len(parts) > self._level + 1 else None

    @cached_property
    def _level(self) -> int:
        return 1 if self.has_splits or all(_is_in(name, TRAIN) for name in self.names) else 0

    def remarks(self) -> dict[str, str]:
        """Returns what a user may not expect of the splits and of the classes, a line each."""
        found = {"splits": self._splits(), "classes": "; ".join(self._oddities())}
        return {key: line for key, line in found.items() if line}

    def _splits(self) -> str:
        if not self.has_splits:
            classes = self.classes if self._level == 0 and self.classes else ("",)
            are_named_so = all(name.casefold() in HELD_OUT for name in classes)
            return f"none, as no folder is called train: {abbreviated(classes)} are classes" if are_named_so else ""
        numbers = Counter(name.partition("/")[0] for name in self.used)
        top = [folder for folder in self.folders if "/" not in folder]
        parts = [
            ", ".join(f"{folder} ({numbers[folder]:,})" for folder in top if folder.casefold() in kind)
            for kind in (TRAIN, HELD_OUT)
        ]
        return f"trained on {parts[0]}, held out {parts[1]}, as the folders are called"

    def _oddities(self) -> list[str]:
        counts = Counter(self.class_of(name) for name in self.used)
        outside = [name for name in self.used if self.class_of(name) is None]
        full = sorted(name for name in counts if name)
        if not full or (outside and len(full) < 2):
            return []
        if outside:
            number = f"{len(outside):,} image{' lies' if len(outside) == 1 else 's lie'}"
            return [f"none, since {number} beside the folders {abbreviated(full)}: {abbreviated(outside)}"]
        within = [f"{folder}/" for folder in self.folders]
        within = [name for name in within if _is_in(name, (*TRAIN, *HELD_OUT))] if self.has_splits else within
        empty = sorted({name for folder in within if (name := self.class_of(f"{folder}x"))} - set(full))
        lines = [f"no images in {abbreviated(empty)}"] if empty else []
        spellings: dict[str, list[str]] = {}
        for name in full:
            spellings.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
        return lines + [f"{' and '.join(alike)} differ in case only" for alike in spellings.values() if len(alike) > 1]


def abbreviated(names: Sequence[str]) -> str:
    """Returns the first of the names, and how many more there are: "a, b, c, d, e and 7 more"."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _is_in(name: str, folders: Sequence[str]) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and first.casefold() in folders
