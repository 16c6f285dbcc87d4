"""Compares configured values with type hints, and describes hints and values in words."""

import collections.abc
import inspect
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from alphabar.config.interpolation import MissingValue, Unresolvable

SCALARS: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,), type(None): (type(None),)}


@dataclass(frozen=True)
class TargetInstance:
    """The object that a node with a `_target_` becomes: an instance of `cls`, or, if `partial`, a function that returns one.

    cls: the class; None if it could not be found.
    """

    cls: type | None
    partial: bool


def fits(value: Any, hint: Any) -> bool:
    """Returns whether the value fits the hint; True if one of them cannot be judged."""
    if isinstance(value, MissingValue | Unresolvable) or (isinstance(value, TargetInstance) and value.cls is None):
        return True
    hint = _unwrapped(hint)
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in typing.get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in typing.get_args(hint))
    if hint is None or hint in SCALARS:
        return type(value) in SCALARS[type(None) if hint is None else hint]
    if (origin or hint) is collections.abc.Callable:
        return _fits_callable(value, typing.get_args(hint))
    kind = origin or hint
    if not inspect.isclass(kind) or kind in (object, type, Any) or typing.is_typeddict(kind) or typing.Protocol in kind.__mro__:
        return True
    return _fits_class(value, kind, typing.get_args(hint))


def _unwrapped(hint: Any) -> Any:
    """Returns the hint with `Annotated` and `NewType` unwrapped."""
    while True:
        if typing.get_origin(hint) is Annotated:
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        else:
            return hint


def _fits_callable(value: Any, args: tuple[Any, ...]) -> bool:
    if not isinstance(value, TargetInstance) or value.cls is None:
        return False
    result = typing.get_origin(args[-1]) or args[-1] if args else None
    if not value.partial:
        call = next((vars(base)["__call__"] for base in value.cls.__mro__ if "__call__" in vars(base)), None)
        makes_tensors = getattr(call, "__module__", None) == "torch.nn.modules.module"  # whatever a module returns
        return call is not None and not (makes_tensors and inspect.isclass(result))
    return not inspect.isclass(result) or issubclass(value.cls, result)


def _fits_class(value: Any, kind: type, args: tuple[Any, ...]) -> bool:
    if isinstance(value, TargetInstance):
        assert value.cls is not None
        return not value.partial and issubclass(value.cls, kind)
    if isinstance(value, list):
        if kind is tuple and args and Ellipsis not in args:
            return len(value) == len(args) and all(fits(item, hint) for item, hint in zip(value, args, strict=True))
        is_sequence = issubclass(list, kind) or kind in (tuple, set, frozenset)
        return is_sequence and all(fits(item, args[0]) for item in value if args)
    if isinstance(value, dict):
        if not issubclass(dict, kind):
            return False
        return len(args) != 2 or all(fits(key, args[0]) and fits(item, args[1]) for key, item in value.items())
    return isinstance(value, kind) and not isinstance(value, str)  # an object that is there already


def classes_in(hint: Any) -> set[type]:
    """Returns the classes of objects that the hint names, also as members of lists and mappings and as results of functions."""
    hint = _unwrapped(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is collections.abc.Callable:
        return classes_in(args[-1])
    if args:
        return set().union(*(classes_in(each) for each in args)) if origin is not Literal else set()
    is_class = inspect.isclass(hint) and hint not in (*SCALARS, object, type) and typing.Protocol not in hint.__mro__
    return {hint} if is_class else set()


def describe_hint(hint: Any) -> str:
    """Returns a description of the hint; for a union, only of its members that can be written in a configuration directly."""
    hint = _unwrapped(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        others = [option for option in _writable(args) if typing.get_origin(option) is not Literal]
        words = [f"one of {', '.join(dict.fromkeys(map(str, literal_values(hint))))}"] if literal_values(hint) else []
        return " or ".join(dict.fromkeys(words + [describe_hint(option) for option in others]))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if hint is None or hint is type(None):
        return "null"
    if (origin or hint) is collections.abc.Callable:
        return "a node with _target_ and _partial_: true"
    kind = origin or hint
    if not inspect.isclass(kind):
        return str(kind)
    if issubclass(dict, kind) and kind is not object and (len(args) == 2 or kind is dict):
        return f"a mapping to {describe_hint(args[1])}" if args else "a mapping"
    if kind is tuple or (issubclass(list, kind) and kind.__module__ in (list.__module__, collections.abc.__name__)):
        items = [describe_hint(item) for item in args if item is not Ellipsis]
        return f"a list of {', '.join(dict.fromkeys(items))}" if items else "a list"
    return kind.__name__


def literal_values(hint: Any) -> list[Any]:
    """Returns the values that the hint lists, those of its `Literal`s."""
    hint = _unwrapped(hint)
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [value for option in typing.get_args(hint) for value in literal_values(option)]
    return []


def _writable(options: tuple[Any, ...]) -> list[Any]:
    def is_writable(option: Any) -> bool:
        option = _unwrapped(option)
        kind = typing.get_origin(option) or option
        return option in SCALARS or kind in (Literal, list, dict, tuple, collections.abc.Sequence, collections.abc.Mapping)

    some = [option for option in options if is_writable(option)]
    return list(options) if not some or some == [type(None)] else some


def describe_value(value: Any) -> str:
    """Returns the value as it would be written in YAML, or the name of the class that it will be an instance of."""
    if isinstance(value, TargetInstance):
        name = value.cls.__name__ if value.cls else "an unknown class"
        return f"{name} with _partial_: true" if value.partial else name
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(describe_value(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, MissingValue):
        return "???"
    return repr(value)
