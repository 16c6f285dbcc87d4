"""The files of a dataset of Hugging Face: its own ones are read, those that it merely names are not."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from alphabar.data.decoding.pixels import orientation
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.files.reading import open_image, read_bytes
from alphabar.models.hub import HUB_NAME, first_sentence, read_json

SHOWN = 100  # the most characters of a path in a message
CARDS = ("README.md", ".huggingface.yaml")
STATE, SPLITS = "state.json", "dataset_dict.json"  # of save_to_disk: the Arrow files of a split, and the splits
METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for the orientation


def refuse_foreign_files(folder: Path) -> None:
    """Raises UserError if the card of the dataset in a folder names data elsewhere, which load_dataset would read or download."""
    import yaml
    from huggingface_hub import DatasetCard

    for path in (folder / name for name in CARDS):
        if not os.path.lexists(path):
            continue
        try:
            text = read_bytes(path).decode()
            card = DatasetCard(text).data.to_dict() if path.suffix == ".md" else yaml.safe_load(text)
        except Exception as error:  # any kind: a file may contain any bytes
            raise UserError(f"data.name={folder}: cannot read {path.name}: {type(error).__name__}") from error
        for place in _data_places(card.get("configs") if isinstance(card, dict) else None):
            if "://" in place or "::" in place or place.startswith(("/", "~")) or ".." in PurePosixPath(place).parts:
                raise UserError(
                    f"data.name={folder}: {path.name} names data outside this folder, {place[:SHOWN]!r}, which are not read"
                )


def is_saved(folder: Path) -> bool:
    """Returns whether save_to_disk wrote the folder."""
    return any((folder / name).is_file() for name in (STATE, SPLITS))


def refuse_foreign_arrows(folder: Path) -> None:
    """Raises UserError if what save_to_disk wrote into a folder is unreadable, or names splits or Arrow files that are elsewhere.

    load_from_disk joins the names to the folder, so that `..`, an absolute path or a link leads to any file of the machine.
    """
    what = f"data.name={folder}"
    splits = read_json(what, folder / SPLITS).get("splits") if (folder / SPLITS).is_file() else [""]
    for split in _own_names(what, folder, SPLITS, splits):
        state = read_json(what, _own_file(what, folder, str(Path(split) / STATE)))
        entries = state.get("_data_files")
        names = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else None
        for name in (*_own_names(what, folder / split, STATE, names), "dataset_info.json"):
            _own_file(what, folder, str(Path(split) / name))


def _own_names(what: str, folder: Path, file: str, names: object) -> list[str]:
    """Returns the names of files or folders that a file of a dataset lists. Raises UserError unless it is a list of texts."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{what}: {folder / file} does not list names of files")
    return names


def _own_file(what: str, folder: Path, name: str) -> Path:
    """Returns the path of a file of a dataset. Raises UserError if it leads out of the dataset's folder."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{what}: names data outside this folder, {name[:SHOWN]!r}, which are not read")
    return folder / name


def cached_dataset(name: str, subset: str | None) -> Any:
    """Returns the splits of a dataset of the hub out of the library's cache, without a question to the hub.

    load_dataset does the same where there is no network, but has no argument for it. Raises UserError if it is not there.
    """
    from datasets.packaged_modules.cache.cache import Cache

    if not HUB_NAME.fullmatch(name):
        raise UserError(f"data.name={name}: there is no such folder, and no dataset of the hub has such a name")
    try:
        builder = Cache(dataset_name=name.rpartition("/")[2], repo_id=name, config_name=subset, version="auto", hash="auto")
    except ValueError as error:
        raise UserError(
            f"data.name={name}: is neither a folder nor in the cache of Hugging Face's datasets ({first_sentence(error)}), and "
            "what only a file names is not fetched; data.download=true fetches it, "
            f"or data_root={name} for the data of a checkpoint"
        ) from error
    return builder.as_dataset()


def _data_places(content: Any, is_place: bool = False) -> Iterator[str]:
    """Yields all texts under the keys data_files and data_dir."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _data_places(value, is_place or key in ("data_files", "data_dir"))
    elif isinstance(content, list):
        for value in content:
            yield from _data_places(value, is_place)
    elif is_place and isinstance(content, str):
        yield content


def dataset_folders(name: str) -> list[Path]:
    """Returns the folders of a dataset's own files: the one that is named, and the caches of the hub."""
    from datasets import config
    from huggingface_hub import constants

    return [user_path(name), Path(config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]


def stored_image(value: Mapping[str, Any] | None, folders: list[Path], mode: str | None) -> Image.Image:
    """Returns the image of a cell, decoded and the right way up; the cell has its bytes or, in a folder of images, its path.

    folders: those of the dataset's own files. mode: the mode that the column asks for, None for that of the file.
    Raises ValueError for a path outside the folders and an empty cell, and as `open_image` does.
    """
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise ValueError("there is no image")
    if value["bytes"] is None and not _is_inside(value["path"], folders):
        raise ValueError(f"need the bytes of the image in the dataset, got only the path {value['path'][:SHOWN]!r}")
    with open_image(Path(value["path"]) if value["bytes"] is None else io.BytesIO(value["bytes"])) as image:
        turn = orientation(image)
        upright = image if turn is None else image.transpose(turn)
        for key in METADATA if turn is not None else ():
            upright.info.pop(key, None)  # which would turn it once more
        return upright.convert(mode) if mode else upright


def _is_inside(path: str, folders: list[Path]) -> bool:
    """Returns whether an absolute path leads to a file in one of the folders."""
    return os.path.isabs(path) and any(Path(path).resolve().is_relative_to(folder.resolve()) for folder in folders)
