"""A diffusion model as sampling sees it: the trained parts of a checkpoint, without the LightningModule that trained them."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from alphabar.config.build import build, check_file
from alphabar.data import Shape
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.errors import UserError
from alphabar.files.bounded_allocation import BoundedAllocation
from alphabar.files.paths import user_path
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import Conditioner
from alphabar.models.conditioners.unconditional import Unconditional
from alphabar.resolution import resolution_of, sides
from alphabar.runs.checkpoints.checkpoint import (
    PATHS_OF_TRAINING,
    FrozenPartPaths,
    frozen_parts,
    must_be_at_hand,
    must_fit,
    read_checkpoint,
    set_frozen_part_paths,
    weight_shapes,
)
from alphabar.runs.ema.posthoc import average_of_decay, average_of_length

PARTS = ("denoiser", "codec", "conditioner")


class DiffusionModel(Protocol):
    """The parts that sampling needs of a model, whether it is being trained or was read from a checkpoint."""

    denoiser: NetworkDenoiser
    codec: Codec
    conditioner: Conditioner

    @property
    def device(self) -> torch.device: ...


class TrainedModel(nn.Module):
    """The parts of a checkpoint that are needed to sample: the denoiser, the codec and the conditioner."""

    def __init__(self, denoiser: NetworkDenoiser, codec: Codec, conditioner: Conditioner | None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.codec = codec
        self.conditioner = Unconditional() if conditioner is None else conditioner

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        return next(self.denoiser.parameters()).device


class LoadedModel(NamedTuple):
    """A model with the weights of a checkpoint, in eval mode on the CPU, and its configuration, image shape and training step.

    upstream: the models of a cascade before it, first to last, on whose samples it is conditioned.
    """

    model: TrainedModel
    config: DictConfig
    shape: Shape
    step: int
    upstream: tuple["LoadedModel", ...] = ()

    @property
    def cascade(self) -> tuple["LoadedModel", ...]:
        """All models of the cascade, in the order in which they are sampled; this one is the last."""
        return (*self.upstream, self._replace(upstream=()))

    @property
    def first(self) -> "LoadedModel":
        """The model that is given the user's condition."""
        return self.cascade[0]

    @property
    def trained_resolutions(self) -> list[int | list[int]]:
        """The resolutions of the images that the model was trained on: those of `data.buckets`, or else one."""
        buckets = OmegaConf.select(self.config, "data.buckets")
        try:
            return [resolution_of(*sides(each)) for each in buckets or [self.config.shape.resolution]]
        except (TypeError, ValueError):  # what a file says of its data, which is not checked where these are not used
            return [self.shape.resolution]


def load_model(
    path: str | Path,
    weights: Literal["ema", "raw"],
    ema_length: float | None = None,
    ema_decay: float | None = None,
    paths: FrozenPartPaths = PATHS_OF_TRAINING,
) -> LoadedModel:
    """Returns the model of a checkpoint with its averaged or its live weights.

    ema_length, ema_decay: see `average_of_length` and `average_of_decay`; None: the average that the run itself used.
    paths: where frozen parts that are not in the file lie now.
    Raises UserError if the file is not a checkpoint of a diffusion model, has no such averaged weights, or holds weights of
    another network.
    """
    content = read_checkpoint(path)
    config = diffusion_config(content["config"], f"checkpoint={path}")
    state = content["state_dict"]
    set_frozen_part_paths(config, paths)
    must_be_at_hand(OmegaConf.masked_copy(config, "module"), [name for name in paths if name], f"checkpoint={path}")
    with BoundedAllocation(f"checkpoint={path}", user_path(path).stat().st_size, len(state)):
        model = build_model(config)
    must_fit(weight_shapes(model_state(state)), weight_shapes(model.state_dict()), f"checkpoint={path}")
    if weights == "ema":
        if "ema" not in content:
            raise UserError(f"checkpoint={path}: has no averaged weights; use weights=raw")
        if ema_length is not None:
            averages = average_of_length(content, user_path(path), ema_length)
        else:
            averages = content["ema"]["weights"] if ema_decay is None else average_of_decay(content, ema_decay)
        state = state | must_be_all_averages(averages, model, path)
        must_fit(weight_shapes(model_state(state)), weight_shapes(model.state_dict()), f"checkpoint={path}")
    model.load_state_dict(model_state(state))
    shape = Shape.of(config.shape.channels, config.shape.resolution)
    return LoadedModel(model.eval().requires_grad_(False), config, shape, content["global_step"])


def must_fit_png(loaded: LoadedModel, instead: str) -> None:
    """Raises UserError, with the alternative, if samples have several channels of 16 bits, which PNG cannot store here."""
    if loaded.model.codec.bits == 16 and loaded.shape.channels != 1:
        raise UserError(
            f"PNGs are written with 16 bits of grey alone, this model makes {loaded.shape.channels} channels: {instead}"
        )


def must_be_all_averages(averages: dict[str, Tensor], model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Returns the averages of a checkpoint. Raises UserError if one of a parameter that is trained is not among them."""
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if lacking := [name for name in trained if name not in averages]:
        raise UserError(
            f"checkpoint={path}: it has averaged weights of {len(trained) - len(lacking)} parameters out of {len(trained)}, "
            f"and none of {lacking[0]}; use weights=raw"
        )
    return averages


def diffusion_config(content: dict[str, Any], name: str) -> DictConfig:
    """Returns the configuration of a checkpoint after a check of the parts of the model; builds nothing.

    name: the file in messages. Raises UserError if it is not that of a diffusion model, or names classes that are not allowed.
    """
    module, shape = content.get("module"), content.get("shape")
    if not isinstance(module, dict) or not is_shape(shape):
        raise UserError(f"{name}: its configuration is not that of a run: it has no module or no shape of images")
    if "denoiser" not in module:
        kind = str(module.get("_target_")).rpartition(".")[2]
        raise UserError(f"{name}: need one of a diffusion model, got one of {kind}, which draws no images")
    # Only these are built: the objective, loggers and callbacks of the run may not be installed here.
    parts = {"module": {part: module[part] for part in PARTS if part in module}}
    check_file(parts, name)
    return OmegaConf.create(content)


def is_shape(value: object) -> TypeGuard[dict[str, Any]]:
    """Returns whether a value is an image shape as configurations have it: channels, and a resolution of one or two numbers."""
    if not isinstance(value, dict) or type(value.get("channels")) is not int:
        return False
    resolution = value.get("resolution")
    size = resolution if isinstance(resolution, list) else [resolution, resolution]
    return len(size) == 2 and all(type(side) is int and side >= 1 for side in size)


def model_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the entries of a run's state that belong to the parts of a TrainedModel; an objective may have weights of its own."""
    return {name: value for name, value in state.items() if name.partition(".")[0] in PARTS}


def build_model(config: DictConfig) -> TrainedModel:
    """Builds the parts of a checkpoint's configuration.

    Raises UserError, with the key that helps, if a frozen part is not at hand.
    """
    try:
        parts: dict[str, Any] = {
            part: build(config.module[part], f"module.{part}") for part in PARTS if config.module.get(part) is not None
        }
    except UserError as error:
        first = str(error).split(": ")[0]
        for key, nodes in frozen_parts(config).items():
            if any(place == first or place.startswith(f"{first}.") for place in nodes) and first != "module":
                raise UserError(f"{error}; {key}=... says where it lies now") from error
        raise
    return TrainedModel(parts["denoiser"], parts["codec"], parts.get("conditioner"))


def frozen_part_paths(model: DiffusionModel) -> FrozenPartPaths:
    """Returns the paths of a model's frozen parts, for loading another version of the same model."""
    return FrozenPartPaths(**{**model.conditioner.frozen_parts, **model.codec.frozen_parts})
