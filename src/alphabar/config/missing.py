"""Finds required values that the user has not given."""

from omegaconf import DictConfig

from alphabar.config.interpolation import Blank, dig, dotted, home, plain, walk, written

# Keys at the root that a command fills in from the data and the codec.
FILLED_IN = ("shape", "space", "num_classes")


def missing(cfg: DictConfig) -> list[str]:
    """Returns one line for each `???` that a `_target_` node needs and that is not filled in later. Imports no class."""
    raw = written(cfg)
    places = {}
    for path, node in walk(raw, plain(cfg)):
        if isinstance(node, dict) and "_target_" in node:
            for name in [name for name, value in node.items() if isinstance(value, Blank)]:
                places[home(raw, (*path, name))] = None
    wanted = [place for place in places if place[0] not in FILLED_IN and dig(raw, place) == "???"]
    return [f"{dotted(place)}: missing, give {dotted(place)}=..." for place in wanted]
