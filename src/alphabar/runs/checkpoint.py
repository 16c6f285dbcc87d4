"""Checkpoints as files: their content, and where the frozen parts lie that they name and do not hold."""

from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from alphabar.config.former_names import upgraded
from alphabar.errors import UserError
from alphabar.runs.torch_files import content_of


class FrozenPartPaths(NamedTuple):
    """Where frozen parts lie that checkpoints name and do not hold; None: where they lay in training.

    codec_name: the autoencoder of a model in latents. clip_name: the CLIP of a prior or a decoder.
    """

    codec_name: str | None = None
    clip_name: str | None = None


WHERE_THEY_LAY = FrozenPartPaths()
# Which nodes of a configuration name them.
PLACES = {"codec_name": ("module.codec",), "clip_name": ("module.codec.clip", "module.conditioner.clip")}
LACKS = {"codec_name": "not one in the latents of an autoencoder", "clip_name": "not built on a CLIP"}


def read(path: str | Path) -> dict[str, Any]:
    """Returns the content of a training checkpoint; nothing in it is executed. Raises UserError if it is not one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint={path}: no such file; a run keeps its own in checkpoints/last.ckpt and best.ckpt")
    content = content_of(path, f"checkpoint={path}")
    missing = {"state_dict", "config", "global_step"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise UserError(f"checkpoint={path}: not a checkpoint of alphabar, it has no {', '.join(sorted(missing))}")
    return {**content, "config": upgraded(content["config"])}


def frozen_parts(config: DictConfig) -> dict[str, dict[str, DictConfig]]:
    """Returns the nodes that name frozen parts, by their place, by the key of `FrozenPartPaths` that says where they lie."""
    nodes: dict[str, Any] = {place: OmegaConf.select(config, place) or {} for places in PLACES.values() for place in places}
    return {key: {place: nodes[place] for place in places if "name" in nodes[place]} for key, places in PLACES.items()}


def move(config: DictConfig, paths: FrozenPartPaths) -> None:
    """Writes down where frozen parts lie now, in the configuration of a model or, resolved, of a run; what names none stays."""
    for key, nodes in frozen_parts(config).items():
        for place in nodes if (name := paths._asdict()[key]) is not None else ():
            for copy in (place, place.removeprefix("module.")):
                if "name" in (OmegaConf.select(config, copy) or {}):
                    OmegaConf.update(config, f"{copy}.name", name)
