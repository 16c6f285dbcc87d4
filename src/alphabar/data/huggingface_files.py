"""The files of a dataset of Hugging Face: its own ones are read, those that it merely names are not."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageOps

from alphabar.errors import UserError
from alphabar.files.reading import open_image, read_bytes
from alphabar.models.hub import HUB_NAME, first_sentence

CARDS = ("README.md", ".huggingface.yaml")


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
                    f"data.name={folder}: {path.name} names data outside this folder, {place[:100]!r}, which are not read"
                )


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


def stored_image(value: Mapping[str, Any] | None, folders: list[Path], mode: str | None) -> Image.Image:
    """Returns the image of a cell, decoded and the right way up; the cell has its bytes or, in a folder of images, its path.

    folders: those of the dataset's own files. mode: the mode that the column asks for, None for that of the file.
    Raises ValueError for a path outside the folders and an empty cell, and as `open_image` does.
    """
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise ValueError("there is no image")
    if value["bytes"] is None and not _is_inside(value["path"], folders):
        raise ValueError(f"need the bytes of the image in the dataset, got only the path {value['path'][:100]!r}")
    with open_image(Path(value["path"]) if value["bytes"] is None else io.BytesIO(value["bytes"])) as image:
        upright = ImageOps.exif_transpose(image)
        return upright.convert(mode) if mode else upright


def _is_inside(path: str, folders: list[Path]) -> bool:
    """Returns whether an absolute path leads to a file in one of the folders."""
    return os.path.isabs(path) and any(Path(path).resolve().is_relative_to(folder.resolve()) for folder in folders)
