"""Converts values of the wrong type whose meaning is unambiguous: a whole float for an int, a number for a text."""

from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alphabar.config.allowed_targets import locate, reason_for_refusal
from alphabar.config.interpolation import definition_path, dotted_path, resolved_container, unresolved_container, walk
from alphabar.config.signatures import type_hints
from alphabar.config.type_hints import fits


def coerce(cfg: DictConfig, texts: Mapping[str, str | None], only: Collection[str] | None = None) -> None:
    """Converts arguments of `_target_` nodes whose type does not fit, at the path at which they are defined.

    A whole float becomes an int where the constructor takes an int (`trainer.max_steps=1e5`); a number or a truth value becomes
    the text that the user wrote where the constructor takes a text (`data.root=2024`).

    texts: the values of the command line's overrides as they were written, by key. only: the keys whose values may be converted;
        None: all of them. Classes of nodes without such values are not imported.
    """
    raw, content = unresolved_container(cfg), resolved_container(cfg)
    nodes = [(path, node) for path, node in walk(raw, content) if isinstance(node, dict) and "_target_" in node]
    nodes = [(path, node) for path, node in nodes if path[:1] != ("hydra",)]
    if any(reason_for_refusal(node["_target_"]) for _, node in nodes):  # nothing is imported then
        return
    for path, node in nodes:
        numbers = {name: value for name, value in node.items() if isinstance(value, int | float)}  # truth values are ints
        places = {name: dotted_path(definition_path(raw, (*path, name))) for name in numbers}
        hints = _hints(node["_target_"]) if any(only is None or place in only for place in places.values()) else {}
        for name, value in numbers.items():
            hint, place = hints.get(name, Any), places[name]
            if fits(value, hint) or not (only is None or place in only):
                continue
            if isinstance(value, float) and value.is_integer() and fits(int(value), hint):
                OmegaConf.update(cfg, place, int(value))
            elif (text := texts.get(place)) is not None and fits(text, hint):
                OmegaConf.update(cfg, place, text.strip())


def _hints(target: str) -> Mapping[str, Any]:
    try:
        return type_hints(locate(target))
    except ValueError:
        return {}
