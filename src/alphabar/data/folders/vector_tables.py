"""The vectors of the images in a folder, read from columns of its metadata.csv or metadata.jsonl."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.data.folders.caption_tables import TABLES
from alphabar.data.folders.captions import normalized_name, rows_by_image
from alphabar.errors import UserError

ALLOWED = ("metadata.csv", "metadata.jsonl")


def read_vector_columns(root: Path, tables: Sequence[str], names: Sequence[str], keys: Sequence[str]) -> Tensor:
    """Returns the numbers in the columns `keys` for each image of `names`, float32 [N, D].

    tables: the names of the tables in the folder. Raises UserError unless one of `ALLOWED` has a finite number in every column for
    every image.
    """
    if len(tables) != 1 or tables[0] not in ALLOWED:
        raise UserError(f"data.vector_keys: need one table of {root}, {' or '.join(ALLOWED)}, got {', '.join(tables) or 'none'}")
    path, unit = root / tables[0], TABLES[tables[0]].unit

    def numbers(values: Mapping[str, Any]) -> list[Any]:
        if lacking := [key for key in keys if key not in values]:
            known = ", ".join(map(repr, list(values)[:8]))
            raise UserError(f"{path} has no column {lacking[0]!r}, only {known}: set data.vector_keys to some of them")
        return [values[key] for key in keys]

    found = rows_by_image(path, keys[0], numbers)
    vectors: list[list[float]] = []
    for name in names:
        if normalized_name(name) not in found:
            raise UserError(f"{path} has no {unit} about {name}, of which data.vector_keys needs numbers")
        number, values = found[normalized_name(name)]
        vectors.append([_finite_number(f"{path}, {unit} {number}", key, value) for key, value in zip(keys, values, strict=True)])
    return torch.tensor(vectors, dtype=torch.float32)


def _finite_number(place: str, key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: need a number under {key!r}, got {str(value)[:60]!r}") from error
    if not math.isfinite(number):
        raise UserError(f"{place}: need a finite number under {key!r}, got {value}")
    return number
