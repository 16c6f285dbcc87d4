"""Describes in words, for messages, the tensors that a part was given or has returned."""

from collections.abc import Mapping

from torch import Tensor


def describe_tensors(value: object) -> str:
    """Returns dtype and shape of a tensor, "float64 [2]", those in a mapping, {vector: float32 [2, 8]}, or the class of others."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {describe_tensors(each)}" for name, each in value.items()) + "}"
    return "None" if value is None else type(value).__name__
