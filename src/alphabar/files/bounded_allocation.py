"""A bound on the memory that is taken while a model is built of a configuration which somebody else may have written."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from alphabar.errors import UserError

# Beside its weights, a model has tables such as positions, and constructors make a few tensors on the way to each.
BYTES_PER_BYTE, FREE_BYTES = 8, 2**28
CALLS_PER_WEIGHT, FREE_CALLS = 16, 1000
MANY_WEIGHTS, MOST_WEIGHTS, BYTES_OF_WEIGHT = 1000, 20_000, 2**10  # where their number is estimated from the size of files
SMALL = 2**16  # elements; a result that cannot have more is counted without a closer look
ELEMENT = 8  # bytes of its largest element
WITHOUT_RESULT = frozenset(("_set_grad_enabled", "dim", "size", "numel", "is_contiguous", "stride"))
# What reads values, so that it cannot be tried without memory, and gives at most one number for each index of an element.
AT_MOST_INPUT = frozenset(
    (
        "__array__",
        "__contains__",
        "allclose",
        "cpu",
        "cuda",
        "equal",
        "item",
        "masked_select",
        "nonzero",
        "numpy",
        "to",
        "tolist",
        "unique",
    )
)

_bounds: list["BoundedAllocation"] = []  # that are entered now, the innermost last


class BoundedAllocation(TorchFunctionMode):
    """Refuses to make more or larger tensors than belong to a file of weights, before their memory is taken.

    A result that can be large is first made on the device "meta", which has no memory. Random numbers are as without the bound.
    What cannot be tried so, since its size depends on values, is refused, but for `AT_MOST_INPUT`.
    A bound inside another stands for it: what a frozen part makes belongs to its own files of weights, not to the checkpoint.

    name: the file in messages. num_bytes: its size. num_weights: the number of tensors in it.
    Raises UserError inside, where a call would go beyond.
    """

    def __init__(self, name: str, num_bytes: int, num_weights: int) -> None:
        super().__init__()
        self.weights = f"the weights in {name}, {num_bytes / 2**20:,.1f} MB"
        self.bytes_left = BYTES_PER_BYTE * num_bytes + FREE_BYTES
        self.calls_left = CALLS_PER_WEIGHT * num_weights + FREE_CALLS

    def __enter__(self) -> Self:
        _bounds.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _bounds.remove(self)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self is _bounds[-1] and not (name.endswith("_") or name in WITHOUT_RESULT):  # in place (zero_), a property (__get__)
            self._count(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Counts the result of a call. Raises UserError if it is too much."""
        tensors: list[Tensor] = []
        most = _product_of_numbers((args, kwargs), tensors)
        if tensors:
            most *= sum(each.numel() for each in tensors) ** 2
        self.calls_left -= 1
        shape: list[int] | None = None
        if most > SMALL:
            size, shape = self._size_on_meta(func, args, kwargs, bool(tensors))
            self.bytes_left -= size
        else:
            self.bytes_left -= ELEMENT * math.ceil(most)
        if self.bytes_left < 0 or self.calls_left < 0:
            what = "makes more tensors" if shape is None else f"makes a tensor of shape {shape}, more"
            raise UserError(f"the configuration is of another model: it {what} than belongs to {self.weights}")

    def _size_on_meta(self, func: Any, args: Any, kwargs: Mapping[str, Any], has_tensors: bool) -> tuple[int, list[int] | None]:
        """Returns the bytes of the tensors that a call makes, and the shape of the first; (0, None) if it makes none."""
        options = {key: value for key, value in kwargs.items() if key != "generator"}
        try:
            with torch._C.DisableTorchFunction():
                if has_tensors:
                    result = func(*_on_meta(args), **_on_meta(options))
                else:
                    result = func(*args, **{**options, "device": "meta"})
        except (TypeError, NotImplementedError) as error:  # it depends on values, which tensors without memory do not have
            if (name := getattr(func, "__name__", str(func))) in AT_MOST_INPUT:
                return _num_bytes((args, kwargs)), None
            reason = f"it calls {name}, and how much that takes is not known before"
            raise UserError(f"the configuration is of no model: {reason}") from error
        except RuntimeError as error:  # a negative size, or one beyond all numbers
            raise UserError(f"the configuration is of no model: {' '.join(str(error).split())[:200]}") from error
        made = [each for each in (result if isinstance(result, list | tuple) else [result]) if isinstance(each, Tensor)]
        return sum(each.numel() * each.element_size() for each in made), list(made[0].shape) if made else None


def bounded_by_files(name: str, paths: Iterable[Path]) -> BoundedAllocation:
    """Returns the bound that follows from the size of files of weights, the number of which is not known before they are read.

    name: the files in messages.
    """
    num_bytes = sum(path.stat().st_size for path in paths)
    return BoundedAllocation(name, num_bytes, min(MOST_WEIGHTS, MANY_WEIGHTS + num_bytes // BYTES_OF_WEIGHT))


def _product_of_numbers(value: Any, tensors: list[Tensor]) -> float:
    """Returns the product of all numbers above 1 in nested lists, tuples and dicts, and adds the tensors in them to `tensors`."""
    if isinstance(value, list | tuple | dict):
        return math.prod(_product_of_numbers(item, tensors) for item in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, Tensor):
        tensors.append(value)
        return 1
    return abs(value) if isinstance(value, int | float) and abs(value) > 1 else 1


def _num_bytes(value: Any) -> int:
    """Returns the bytes of the indices of all elements of the tensors in nested lists, tuples and dicts."""
    if isinstance(value, list | tuple | dict):
        return sum(map(_num_bytes, value.values() if isinstance(value, dict) else value))
    return ELEMENT * value.numel() * max(1, value.dim()) if isinstance(value, Tensor) else 0


def _on_meta(value: Any) -> Any:
    """Returns nested lists, tuples and dicts with tensors of the same shape and strides that have no memory."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, dict):
        return {key: _on_meta(item) for key, item in value.items()}
    return type(value)(map(_on_meta, value)) if type(value) in (list, tuple) else value
