"""Converts values of the wrong type whose meaning is unambiguous: a whole float for an int, a number for a text."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alphabar.config.allowed_targets import locate, refusal
from alphabar.config.interpolation import dotted, home, plain, walk, written
from alphabar.config.signatures import type_hints
from alphabar.config.type_hints import fits


def coerce(cfg: DictConfig, texts: Mapping[str, str | None]) -> None:
    """Converts arguments of `_target_` nodes whose type does not fit, in the place where they are written.

    A whole float becomes an int where the constructor takes an int (`trainer.max_steps=1e5`); a number or a truth value becomes
    the text that the user wrote where the constructor takes a text (`data.root=2024`).

    texts: the values of the command line's overrides as they were written, by key.
    """
    raw, content = written(cfg), plain(cfg)
    nodes = [(path, node) for path, node in walk(raw, content) if isinstance(node, dict) and "_target_" in node]
    if any(refusal(node["_target_"]) for _, node in nodes):  # nothing is imported then
        return
    for path, node in nodes:
        for name, value, hint in _misfits(node):
            place = home(raw, (*path, name))
            text = texts.get(dotted(place))
            if isinstance(value, float) and value.is_integer() and fits(int(value), hint):
                OmegaConf.update(cfg, dotted(place), int(value))
            elif text is not None and fits(text, hint):
                OmegaConf.update(cfg, dotted(place), text.strip())


def _misfits(node: dict[str, Any]) -> Iterator[tuple[str, int | float, Any]]:
    """Yields (name, value, type hint) of the arguments that are numbers or truth values and do not fit their hints."""
    try:
        hints = type_hints(locate(node["_target_"]))
    except ValueError:
        return
    for name, value in node.items():
        if isinstance(value, int | float) and name in hints and not fits(value, hints[name]):
            yield name, value, hints[name]
