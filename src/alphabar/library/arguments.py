"""Checks of the arguments that a program of one's own gives, by the type hints of what takes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alphabar.config.type_hints import describe_hint, fits
from alphabar.errors import UserError


def plain_arguments(hints: Mapping[str, Any], arguments: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """Returns the arguments with arrays, tensors and paths as lists, numbers and texts.

    names: what the user calls an argument that has another name. Raises UserError, in one line, for a value of another type than
    its hint, which names what is expected.
    """
    plain = {key: _plain(value) for key, value in arguments.items()}
    for key, value in plain.items():
        if not fits(list(value) if isinstance(value, tuple) else value, hints[key]):
            expected = describe_hint(hints[key]).replace("null", "None")
            raise UserError(f"{names.get(key, key)}: expected {expected}, got {' '.join(repr(arguments[key]).split())[:100]}")
    return plain


def _plain(value: Any) -> Any:
    """Returns what the value would be on the command line."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value
    return str(value) if isinstance(value, Path) else value
