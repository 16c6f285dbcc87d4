"""Warm starts: a run begins with the weights of another run, or of a network of diffusers."""

from collections.abc import Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from alphabar.errors import UserError
from alphabar.files.bounded_allocation import BoundedAllocation
from alphabar.files.paths import display_path, user_path
from alphabar.models.frozen import check_layers
from alphabar.models.hub import CONFIG, DIFFUSERS, HUB_NAME, OUTPUTS, Wanted, first_sentence, has_weights, model_folder, read_json
from alphabar.models.networks.diffusers import from_diffusers, unet_arguments
from alphabar.models.networks.diffusers_dit import dit_from_diffusers
from alphabar.models.networks.lora import LoRA, is_of_adapter, name_without_lora
from alphabar.runs.checkpoints.checkpoint import checkpoint_hash, read_checkpoint, weight_differences, weight_shapes
from alphabar.runs.checkpoints.torch_files import load_torch_file
from alphabar.runs.folders.run_dir import LAST_CHECKPOINT
from alphabar.training.modules.base import BaseModule
from alphabar.training.modules.diffusion import DiffusionModule

NETWORK = "denoiser.network."
SUBFOLDERS = ("unet", "transformer")  # of a pipeline of diffusers
WEIGHTS = ("ema", "raw", None)
ACCEPTED = "need a checkpoint, the folder of a run, or a UNet2DModel or DiT of diffusers: a folder, or OWNER/NAME on the hub"
NOT_COMPARED = ("_target_", "dropout")  # arguments that do not change the meaning of weights


class Source(NamedTuple):
    """Weights by their names in a module, a description of them, and the known arguments of their network."""

    weights: Mapping[str, Tensor]
    description: str
    arguments: Mapping[str, Any]


def begin_from(module: BaseModule, cfg: DictConfig) -> None:
    """Copies the weights of `init_from`, if it is set, that match the module in name and shape, and records which.

    Raises UserError if none matches or one is not finite, for files that cannot be read, and for settings without effect.
    """
    init_from, kind = (OmegaConf.select(cfg, key) for key in ("init_from", "init_weights"))
    if kind not in WEIGHTS:
        raise UserError(f"init_weights={kind}: need ema or raw, or null for ema where there is one")
    is_adapted = isinstance(module, DiffusionModule) and isinstance(module.denoiser.network, LoRA)
    if init_from is None:
        if is_adapted:
            raise UserError("lora: needs init_from=RUN, since a network that was never trained would stay as it is")
        if kind is not None:
            raise UserError(f"init_weights={kind}: chooses weights of init_from, and there is no init_from")
        return
    name = f"init_from={init_from}"
    source = read_source(str(init_from), kind)
    weights = {key: weight for key, weight in source.weights.items() if key.startswith(module.learned_parts)}
    own = {key: weight for key, weight in module.state_dict().items() if key.startswith(module.learned_parts)}
    own = {key: weight for key, weight in own.items() if key in weights or not is_of_adapter(key)}
    weights = with_names_of(own, weights)
    taken = [key for key, weight in own.items() if key in weights and weights[key].shape == weight.shape]
    others, arguments = weight_differences(weight_shapes(weights), weight_shapes(own)), differing_arguments(module, source)
    if not taken:
        reason = "; ".join([*others, *arguments])
        raise UserError(f"{name}: none of its weights has name and shape of one of this model's {len(own)}: {reason}")
    if is_adapted and (lacking := [key for key in own if key.startswith(NETWORK) and key not in taken]):
        raise UserError(
            f"{name}: lora trains none of the network's own weights, and {len(lacking)} are not there: {'; '.join(others)}"
        )
    if (bad := next((key for key in taken if not weights[key].isfinite().all()), None)) is not None:
        raise UserError(f"{name}: {bad} is not finite")
    with torch.no_grad():
        for key in taken:
            own[key].copy_(weights[key])
    numbers = [sum(weight.numel() for weight in each) for each in ((own[key] for key in taken), own.values())]
    text = f"{len(taken)} of {len(own)} weights, {numbers[0]:,} of {numbers[1]:,} numbers, from {source.description}"
    module.warm_start = "; ".join([text, *(["not taken: " + ", ".join(others)] if others else []), *arguments])


def with_names_of(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights by their names in this module, whose network may be wrapped in a `LoRA`."""
    names = {name_without_lora(key): key for key in own if key not in weights}
    return {names.get(key, key): weight for key, weight in weights.items()}


def differing_arguments(module: BaseModule, source: Source) -> list[str]:
    """Returns a description of the arguments in which the network of the source differs; empty if there are none."""
    if not isinstance(module, DiffusionModule):
        return []
    network, given = module.denoiser.network, module.config["module"]["denoiser"]["network"]
    if isinstance(network, LoRA):
        network, given = network.network, given["network"]
    own = {**default_arguments(network), **given}
    known = {key: value for key, value in source.arguments.items() if key in own and key not in NOT_COMPARED}
    texts = [f"network.{key}={value} (here {own[key]})" for key, value in known.items() if value != own[key]]
    return [f"trained with {', '.join(texts)}"] if texts else []


def default_arguments(network: nn.Module) -> dict[str, Any]:
    """Returns the defaults of the arguments of a network's class."""
    parameters = signature(type(network)).parameters
    return {name: each.default for name, each in parameters.items() if each.default is not Parameter.empty}


def read_source(init_from: str, kind: str | None) -> Source:
    """Returns the weights in a checkpoint, in the last one of a run's folder, or of a network of diffusers.

    kind: "ema", "raw", or None for the averages if there are any, else the raw weights.
    Raises UserError if there are no weights, or none of this kind.
    """
    path = user_path(init_from)
    path = path / LAST_CHECKPOINT if (path / LAST_CHECKPOINT).is_file() else path
    if path.is_file():
        return read_run(path, init_from, kind)
    if kind is not None:
        raise UserError(f"init_weights={kind}: is for checkpoints of runs, and {init_from} is none")
    inner = next((f"{init_from}/{name}" for name in SUBFOLDERS if (path / name / CONFIG).is_file()), init_from)
    what = f"init_from={init_from}"
    if path.is_dir() and not has_weights(user_path(inner), DIFFUSERS):
        raise UserError(f"{what}: neither {LAST_CHECKPOINT} nor weights of diffusers are in this folder; {ACCEPTED}")
    if not path.exists() and not (HUB_NAME.fullmatch(init_from) and "/" in init_from and path.parts[0] != OUTPUTS):
        raise UserError(f"{what}: there is no such file or folder; {ACCEPTED}")
    wanted = Wanted(what, DIFFUSERS, setting="give its path", example="a UNet2DModel or DiTTransformer2DModel of diffusers")
    return read_diffusers(model_folder(wanted, inner), what)


def read_run(path: Path, init_from: str, kind: str | None) -> Source:
    """Returns the weights in a checkpoint; see `read_source`. Nothing that its configuration names is built."""
    try:
        content = read_checkpoint(path)
    except UserError as error:
        raise UserError(str(error).replace(f"checkpoint={path}", f"init_from={init_from}")) from error
    averages = content.get("ema", {}).get("weights")
    if kind == "ema" and not isinstance(averages, dict):
        raise UserError(f"init_from={init_from}: has no averaged weights; use init_weights=raw")
    is_averaged = kind != "raw" and isinstance(averages, dict)
    state = content["state_dict"] | (averages if is_averaged else {})
    weights = {name: weight for name, weight in state.items() if isinstance(weight, Tensor)}
    network = OmegaConf.select(OmegaConf.create(content["config"]), "module.denoiser.network")
    arguments = OmegaConf.to_container(network) if isinstance(network, DictConfig) else {}
    digest = checkpoint_hash(str(path.absolute()))
    text = f"the {'averages' if is_averaged else 'raw weights'} of {display_path(path)} (step {content['global_step']:,}, {digest})"
    return Source(weights, text, arguments)  # type: ignore[arg-type]


def read_diffusers(folder: Path, what: str) -> Source:
    """Returns the weights of a UNet2DModel or a DiTTransformer2DModel in a folder. Raises UserError for other content."""
    config = read_json(what, folder / CONFIG)
    check_layers(what, folder)
    path = next(folder / name for name in DIFFUSERS.weights if (folder / name).is_file())
    weights = read_tensors(path, what)
    kind = config.get("_class_name")
    try:
        if kind == "UNet2DModel":
            with BoundedAllocation(what, path.stat().st_size, len(weights)):
                network = from_diffusers(config, weights)
            arguments, state = unet_arguments(config), {NETWORK + name: each for name, each in network.state_dict().items()}
        elif kind == "DiTTransformer2DModel":
            found = dit_from_diffusers(config, weights)
            arguments, state = found.arguments, {NETWORK + name: each for name, each in found.weights.items()}
            state["conditioner.table.weight"] = found.classes
        else:
            raise UserError(f"{what}: {folder / CONFIG} is of {kind}, need UNet2DModel or DiTTransformer2DModel")
    except UserError:
        raise
    except Exception as error:  # of any kind: a file may contain any bytes
        raise UserError(f"{what}: {first_sentence(error)}") from error
    return Source(state, f"{kind} in {display_path(folder)} ({checkpoint_hash(str(path.absolute()))})", arguments)


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """Returns the tensors in a file of weights; no code in it is executed. Raises UserError if it cannot be read."""
    if path.suffix != ".safetensors":
        content = load_torch_file(path, what)
        return {str(name): each for name, each in content.items() if isinstance(each, Tensor)} if isinstance(content, dict) else {}
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{what}: {path.name} needs safetensors: pip install 'alphabar[diffusers]'") from error
    try:
        return load_file(path)
    except Exception as error:  # of any kind: a file may contain any bytes
        raise UserError(f"{what}: {display_path(path)} cannot be read ({first_sentence(error)})") from error
