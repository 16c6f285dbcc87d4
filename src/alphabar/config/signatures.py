"""Compares configured arguments with the signature of a constructor."""

import inspect
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from inspect import Parameter
from typing import Any, Unpack

from alphabar.config.incomplete import reason_incomplete
from alphabar.config.interpolation import MissingValue
from alphabar.config.type_hints import describe_hint, describe_value, fits, literal_values
from alphabar.errors import did_you_mean

MISSING = "missing"
GIVEN_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def argument_problems(cls: type, arguments: Mapping[str, Any], partial: bool) -> Iterator[tuple[str | None, str]]:
    """Yields the problems of calling `cls(**arguments)` as (name of the argument, or None for the call itself; one line)."""
    if reason := reason_incomplete(cls):
        yield None, reason
        return
    parameters, open_ended = accepted_parameters(cls)
    hints = type_hints(cls)
    for name, value in arguments.items():
        if name not in parameters and not open_ended:
            yield None, _unknown(cls, name, parameters)
        elif value is MissingValue.MANDATORY:
            yield name, MISSING
        elif name in hints and not fits(value, hints[name]):
            suggestion = did_you_mean(str(value), map(str, literal_values(hints[name])))
            yield name, f"expected {describe_hint(hints[name])}, got {describe_value(value)}{suggestion}"
        elif not is_finite(value) and is_finite(parameters[name].default if name in parameters else None):
            yield name, f"need finite numbers, got {describe_value(value)}"
    if not partial:
        for name, parameter in parameters.items():
            if parameter.default is Parameter.empty and name not in arguments:
                yield None, f"{cls.__name__} needs '{name}'"


def is_finite(value: Any) -> bool:
    """Returns whether no number in the value, or in the lists and mappings in it, is NaN or infinite."""
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def accepted_parameters(cls: type) -> tuple[dict[str, Parameter], bool]:
    """Returns the parameters of the constructor that can be given by name, and whether it takes any others."""
    constructor: Callable[..., Any] = cls.__init__
    if inspect.isfunction(constructor) and constructor.__module__ == "torch.nn.modules.module":
        return {}, False  # its *args and **kwargs are there only to be refused
    try:
        signature = inspect.signature(cls)
    except (ValueError, TypeError):
        return {}, True
    parameters = signature.parameters.values()
    named = {parameter.name: parameter for parameter in parameters if parameter.kind in GIVEN_BY_NAME}
    options = _typed_options(cls)
    named |= {name: Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in options}
    return named, not options and any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)


def type_hints(cls: type) -> dict[str, Any]:
    """Returns the hints of the constructor's parameters; an empty dict if they cannot be resolved.

    Those of `**options: Unpack[Options]` (PEP 692) are the hints of the keys of Options, a TypedDict.
    """
    return {name: hint for name, hint in _all_hints(cls).items() if typing.get_origin(hint) is not Unpack} | _typed_options(cls)


def _all_hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__)
    except (NameError, TypeError, AttributeError):
        return {}


def _typed_options(cls: type) -> dict[str, Any]:
    """Returns the hints of the optional arguments that the constructor takes as the keys of a TypedDict."""
    options = next((typing.get_args(hint)[0] for hint in _all_hints(cls).values() if typing.get_origin(hint) is Unpack), None)
    return {} if options is None else typing.get_type_hints(options)


def _unknown(cls: type, name: str, parameters: Mapping[str, Parameter]) -> str:
    text = f"{cls.__name__} has no argument '{name}'"
    if nearest := get_close_matches(name, parameters, n=1):
        return f"{text}. Did you mean '{nearest[0]}'?"
    if len(parameters) > 12:
        return text
    return f"{text}. It takes: {', '.join(parameters)}" if parameters else f"{text}. It takes none"
