"""Compares what a checkpoint says of the state of training with what a run that begins has in its place."""

from typing import Any

from torch import Tensor

from alphabar.errors import UserError
from alphabar.runs.checkpoints.checkpoint import must_have_types


def must_be_like(value: Any, example: Any, name: str) -> None:
    """Raises UserError, with the place of the first difference, unless a value out of a file is of the kind of `example`.

    A dict has the keys of the example, and may have more. A list has its length, a tensor its shape and its type. Numbers are
    finite and, where the example has no negative ones, not negative.
    name: the place of the value in messages.
    """
    place, _, key = name.rpartition(".")
    must_have_types({key: value}, {key: _kinds(example)}, f"{place}.")
    if isinstance(example, dict):
        for part in example:
            if part not in value:
                raise UserError(f"{name}.{part} is missing")
            must_be_like(value[part], example[part], f"{name}.{part}")
    elif isinstance(example, list | tuple):
        if len(value) != len(example):
            raise UserError(f"{name} has {len(value)} items, need {len(example)}")
        for index, part in enumerate(example):
            must_be_like(value[index], part, f"{name}.{index}")
    elif isinstance(example, Tensor):
        _must_be_like_tensor(value, example, name)
    elif isinstance(example, int | float):
        _must_be_in_range(float(value), float(value), example >= 0, name)


def _kinds(example: Any) -> type | tuple[type, ...]:
    """Returns the types of what may stand in the place of `example`."""
    if isinstance(example, list | tuple):
        return (list, tuple)
    if isinstance(example, Tensor):
        return Tensor
    return (int, float) if type(example) is float else type(example)


def _must_be_like_tensor(value: Tensor, example: Tensor, name: str) -> None:
    for what, found, needed in (("shape", list(value.shape), list(example.shape)), ("type", value.dtype, example.dtype)):
        if found != needed:
            raise UserError(f"{name} has the {what} {found}, need {needed}")
    if value.numel():
        lowest, highest = (float(each) for each in value.aminmax())  # both are NaN if any is
        _must_be_in_range(lowest, highest, bool((example >= 0).all()), name)


def _must_be_in_range(lowest: float, highest: float, is_positive: bool, name: str) -> None:
    if not float("-inf") < lowest <= highest < float("inf"):
        raise UserError(f"{name} is not finite")
    if is_positive and lowest < 0:
        raise UserError(f"{name} is negative ({lowest:g})")
