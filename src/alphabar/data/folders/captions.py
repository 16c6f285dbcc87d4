"""Captions of the images in a folder: in one table of all of them, or in a text file beside each."""

import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from lightning.pytorch.utilities import rank_zero_only

from alphabar.data.folders.caption_tables import FILE_NAME, TABLES
from alphabar.data.folders.folder_layout import abbreviated
from alphabar.errors import UserError
from alphabar.files.reading import read_bytes
from alphabar.progress import show_progress

T = TypeVar("T")
TEXT_FILE = ".txt"
MAX_BYTES = 2**20  # of the caption of one image
ALLOWED = f"{', '.join(list(TABLES)[:-1])} or {list(TABLES)[-1]} in the folder itself, or x{TEXT_FILE} beside x.png"
# Files of such names and kinds are likely to have been meant as captions.
NEAR_NAMES = ("metadata", "meta", "caption", "captions", "label", "labels", "prompt", "prompts", "text", "texts", "annotations")
NEAR_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".xlsx")


@dataclass(frozen=True)
class CaptionFiles:
    """The files that have the captions of the images in a folder.

    root: the folder, to which names are relative. tables: the names of `TABLES` that are there. texts: the name of the text file
    beside an image, by that of the image. similar: files that are not read though their names promise captions.
    """

    root: Path
    tables: tuple[str, ...]
    texts: Mapping[str, str]
    similar: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        """The names of all files that have captions."""
        return {*self.tables, *self.texts.values()}

    def of_earlier_versions(self) -> "CaptionFiles":
        """Returns those of these files that earlier versions read: metadata.jsonl alone."""
        return CaptionFiles(self.root, tuple(name for name in self.tables if name == "metadata.jsonl"), {}, ())

    def remarks(self) -> dict[str, str]:
        """Returns a line on files whose names promise captions, where there are none."""
        if self.tables or self.texts or not self.similar:
            return {}
        number = "is" if len(self.similar) == 1 else "are"
        return {"captions": f"{abbreviated(self.similar)} {number} not read, captions may be in {ALLOWED}"}

    def read(self, names: Sequence[str], key: str) -> list[str] | None:
        """Returns the caption of each image of `names`; None if there are no files of captions.

        key: the column of the captions in a table, of which rows for other files do not count.
        Raises UserError for captions in two places, a table that cannot be read or has two rows about one image, and images without
        a caption.
        """
        if len(self.tables) + bool(self.texts) > 1:
            beside = [f"{next(iter(self.texts.values()))} beside an image"] if self.texts else []
            raise UserError(f"{self.root} has captions in {' and in '.join([*self.tables, *beside])}: need them in one place")
        if self.tables:
            return _read_table(self.root / self.tables[0], names, key)
        return _read_text_files(self.root, names, self.texts) if self.texts else None


def find_caption_files(root: Path, images: Sequence[str], others: Sequence[str]) -> CaptionFiles:
    """Returns the files of captions in a folder, of which the names of all images and of all other files are given."""
    texts = {_stem(name): name for name in others if name.lower().endswith(TEXT_FILE)}
    beside = {name: texts[stem] for name in (images if texts else ()) if (stem := _stem(name)) in texts}
    tables = tuple(name for name in TABLES if os.path.lexists(root / name))
    known = {*tables, *beside.values()}
    return CaptionFiles(root, tables, beside, tuple(name for name in others if name not in known and _promises_captions(name)))


def _promises_captions(name: str) -> bool:
    path = PurePosixPath(name.lower())
    return path.suffix == ".caption" or (path.stem in NEAR_NAMES and path.suffix in NEAR_SUFFIXES)


def rows_by_image(path: Path, key: str, pick: Callable[[Mapping[str, Any]], T]) -> dict[str, tuple[int, T]]:
    """Returns, by the normalized name of an image, the number of its row in a table and what `pick` takes of its values.

    key: a column that is used. Raises UserError for a table that cannot be read or has two rows about one image.
    """
    unit = TABLES[path.name].unit
    found: dict[str, tuple[int, T]] = {}
    for number, values in TABLES[path.name].rows(path, key):
        if not isinstance(values[FILE_NAME], str):
            raise UserError(f"{path}, {unit} {number}: need a text under {FILE_NAME!r}, got {values[FILE_NAME]}")
        name = normalized_name(values[FILE_NAME])
        if name in found:
            raise UserError(
                f"{path}, {unit} {number}: {name} has a {unit} already, {unit} {found[name][0]}; need one for each image"
            )
        found[name] = (number, pick(values))
    return found


def _read_table(path: Path, names: Sequence[str], key: str) -> list[str]:
    unit = TABLES[path.name].unit
    keys: set[str] = set()

    def caption(values: Mapping[str, Any]) -> Any:
        keys.update(values)
        return values.get(key)

    found = rows_by_image(path, key, caption)
    captions = [_caption(f"{path}, {unit}", key, *found.get(normalized_name(name), (0, None))) for name in names]
    others = sorted(keys - {FILE_NAME})
    hint = f"its {unit}s have {', '.join(map(repr, others[:8]))}: set data.caption_key to one of them; "
    return _complete(captions, names, f"{path} gives no caption {key!r}", hint if others and key not in keys else "")


def _caption(place: str, key: str, number: int, caption: Any) -> str:
    """Returns the caption without spaces around it; an empty text if there is none."""
    if caption is not None and not isinstance(caption, str):
        raise UserError(f"{place} {number}: need a text under {key!r}, got {json.dumps(caption)[:60]}")
    return (caption or "").strip()


def _read_text_files(root: Path, names: Sequence[str], texts: Mapping[str, str]) -> list[str]:
    captions = []
    with show_progress("reading captions", len(names), "file", rank_zero_only.rank == 0) as bar:
        for name in names:
            captions.append(_read_text(root / texts[name]) if name in texts else "")
            bar.update()
    return _complete(captions, names, f"{root}: there is no caption in a {TEXT_FILE} file beside the image", "")


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not in UTF-8 ({error})") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _complete(captions: list[str], names: Sequence[str], problem: str, hint: str) -> list[str]:
    """Returns the captions. Raises UserError if an image has none."""
    lacking = [name for name, caption in zip(names, captions, strict=True) if not caption]
    if lacking:
        raise UserError(
            f"{problem} for {len(lacking)} of {len(names)} images, the first of them is {lacking[0]}; "
            f"{hint}data.caption_key=null does without captions"
        )
    return captions


def _stem(name: str) -> str:
    """Returns the name of a file without its suffix, in one of the two spellings that accents have."""
    return unicodedata.normalize("NFC", name.rpartition(".")[0])


def normalized_name(name: str) -> str:
    """Returns one spelling of a file name, of the two that accents have, and without a leading "./"."""
    return unicodedata.normalize("NFC", PurePosixPath(name).as_posix())
