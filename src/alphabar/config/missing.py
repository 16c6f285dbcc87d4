"""Finds required values that the user has not given."""

from omegaconf import DictConfig

from alphabar.config.interpolation import (
    MissingValue,
    definition_path,
    dotted_path,
    resolved_container,
    unresolved_container,
    value_at,
    walk,
)

# Keys at the root that a command fills in from the data, the codec and the frozen parts.
FILLED_IN = ("shape", "space", "num_classes", "vector_length", "conditioning")


def missing_values(cfg: DictConfig) -> list[str]:
    """Returns one line for each mandatory value (`???`) of a `_target_` node that is not filled in later. Imports no class."""
    raw = unresolved_container(cfg)
    places = {}
    for path, node in walk(raw, resolved_container(cfg)):
        if isinstance(node, dict) and "_target_" in node:
            for name in [name for name, value in node.items() if isinstance(value, MissingValue)]:
                places[definition_path(raw, (*path, name))] = None
    wanted = [place for place in places if place[0] not in FILLED_IN and value_at(raw, place) == "???"]
    return [f"{dotted_path(place)}: missing, give {dotted_path(place)}=..." for place in wanted]
