"""Checkpoint files: their content, and the paths of the frozen parts that they name and do not contain."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from alphabar.config.bounds import SEPARATORS
from alphabar.config.former_names import upgrade_config
from alphabar.config.interpolation import dotted_path, unresolved_container, walk
from alphabar.config.stored import plain_config
from alphabar.config.stored_paths import confined
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.models.hub import would_be_downloaded
from alphabar.runs.checkpoints.torch_files import load_torch_file


class FrozenPartPaths(NamedTuple):
    """The paths of the frozen parts that a checkpoint names and does not contain; None: the path that was used in training.

    codec_name: the autoencoder of a model in latents. clip_name: the CLIP of a prior or a decoder.
    """

    codec_name: str | None = None
    clip_name: str | None = None


Shapes = Mapping[str, list[int]]
Types = Mapping[Any, type | tuple[type, ...]]
# The types of what a checkpoint contains, and of the items of some of it.
CONTENT: Types = {
    "state_dict": dict,
    "global_step": int,
    "ema": dict,
    "callbacks": dict,
    "figures": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
}
ITEMS: Types = {"callbacks": dict, "figures": (int, float), "optimizer_states": dict, "lr_schedulers": dict, "loops": dict}
PATHS_OF_TRAINING = FrozenPartPaths()
# The nodes of a configuration that name each frozen part.
PLACES = {"codec_name": ("module.codec",), "clip_name": ("module.codec.clip", "module.conditioner.clip")}
USERS_OF_MODELS = ("alphabar.models.", "alphabar.metrics.")
LACKS = {"codec_name": "not one in the latents of an autoencoder", "clip_name": "not built on a CLIP"}


def must_have_types(content: Mapping[Any, Any], types: Types, name: str) -> None:
    """Raises UserError if a value that came out of a file is not of the type, or of one of those, that it has to be.

    name: what the key is a part of in the message.
    """
    for key, kinds in types.items():
        if key in content and not isinstance(content[key], kinds):
            needed = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
            raise UserError(f"{name}{key} is of type {type(content[key]).__name__}, need {needed}")


def read_checkpoint(path: str | Path, in_memory: bool = True) -> dict[str, Any]:
    """Returns the content of a training checkpoint; nothing in it is executed or resolved. Raises UserError if it is not one.

    in_memory: as for `load_torch_file`; False where only a look is taken.
    """
    file = user_path(path)
    if not file.is_file():
        raise UserError(f"checkpoint={path}: no such file; a run keeps its own in checkpoints/last.ckpt and best.ckpt")
    content = load_torch_file(file, f"checkpoint={path}", in_memory)
    missing = {"state_dict", "config", "global_step"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise UserError(f"checkpoint={path}: not a checkpoint of alphabar, it has no {', '.join(sorted(missing))}")
    name = f"checkpoint={path}: not a checkpoint of alphabar, its "
    must_have_types(content, CONTENT, name)
    for key, kind in ITEMS.items():
        items = content.get(key, {})
        places = items if isinstance(items, dict) else range(len(items))
        must_have_types({place: items[place] for place in places}, dict.fromkeys(places, kind), f"{name}{key}.")
    return {**content, "config": confined(upgrade_config(plain_config(content["config"], f"checkpoint={path}")))}


def weight_shapes(state: Mapping[str, Any]) -> Shapes:
    """Returns the shapes of a state's tensors by their names; what is no tensor has none."""
    return {name: list(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def must_fit(weights: Shapes, network: Shapes, name: str) -> None:
    """Raises UserError, with the first of each kind of difference, unless weights have the names and shapes that a network needs.

    name: the file of the weights in messages.
    """
    if found := weight_differences(weights, network):
        raise UserError(f"{name}: its weights are of another network, of whose {len(network)} weights {', '.join(found)}")


def weight_differences(weights: Shapes, network: Shapes) -> list[str]:
    """Returns a text for each kind of difference between weights and those that a network needs, with the first of its kind."""
    kinds = {
        "missing": [key for key in network if key not in weights],
        "not of it": [key for key in weights if key not in network],
        "of another shape": [key for key in network if key in weights and weights[key] != network[key]],
    }
    found = [f"{len(keys)} {kind} ({keys[0]}{', ...' if len(keys) > 1 else ''})" for kind, keys in kinds.items() if keys]
    if keys := kinds["of another shape"]:
        found[-1] += f": {weights[keys[0]]}, need {network[keys[0]]}"
    return found


def checkpoint_hash(path: str) -> str:
    """Returns the first 16 digits of the SHA-256 of a checkpoint file, by which receipts name it."""
    with user_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def frozen_parts(config: DictConfig) -> dict[str, dict[str, DictConfig]]:
    """Returns the nodes that name frozen parts: by key of `FrozenPartPaths`, then by their dotted place in the configuration."""
    nodes: dict[str, Any] = {place: OmegaConf.select(config, place) or {} for places in PLACES.values() for place in places}
    return {key: {place: nodes[place] for place in places if "name" in nodes[place]} for key, places in PLACES.items()}


def must_be_at_hand(config: DictConfig, given: Collection[str], name: str) -> None:
    """Raises UserError if a stored configuration names a frozen model that would be downloaded, unless the user has named it.

    given: words of the user, in which it has to be a whole value. name: the file in messages.
    """
    named = {value for word in given for value in SEPARATORS.split(word)}
    content = unresolved_container(config)
    for place, node in walk(content, content):
        model = node.get("name") if isinstance(node, dict) and str(node.get("_target_")).startswith(USERS_OF_MODELS) else None
        if isinstance(model, str) and model not in named and would_be_downloaded(model):
            raise UserError(
                f"{name}: {dotted_path((*place, 'name'))}={model}: is not on this machine, and "
                f"what a file names is not downloaded; if you trust it: hf download {model}"
            )


def set_frozen_part_paths(config: DictConfig, paths: FrozenPartPaths) -> None:
    """Changes the paths of frozen parts in the configuration of a model or, resolved, of a run; parts that it has not stay out."""
    for key, nodes in frozen_parts(config).items():
        for place in nodes if (name := paths._asdict()[key]) is not None else ():
            for copy in (place, place.removeprefix("module.")):
                if "name" in (OmegaConf.select(config, copy) or {}):
                    OmegaConf.update(config, f"{copy}.name", name)
