"""Conversion of weights to and from `diffusers.UNet2DModel`, without diffusers itself.

    network = from_diffusers(json.load(open("config.json")), safetensors.torch.load_file("model.safetensors"))
    config, state_dict = to_diffusers(network); UNet2DModel(**config).load_state_dict(state_dict)

Same input, same output. What `UNet` cannot represent is refused.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alphabar.models.networks import ConditionReader
from alphabar.models.networks.unet import UNet
from alphabar.resolution import sides

# The defaults of UNet2DModel: those for which `UNet` has an argument ...
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "time_embedding_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "num_train_timesteps": None,
}
# ... and those for which `UNet` supports one value (swish is diffusers' other name for silu).
_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
_SCALE_SHIFT = {"default": False, "scale_shift": True}
_RENAMES = (
    (r"^embedding\.linear(\d)\.", r"time_embedding.linear_\1."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^middle\.", "mid_block.layers."),
    (r"^(down|up)\.(\d+)\.", r"\1_blocks.\2."),
    (r"\.layers\.(\d+)\.residual\.", r".resnets.\1."),
    (r"\.layers\.(\d+)\.attention\.", r".attentions.\1."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.project\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.out\.", r"\1.to_out.0."),
)
_FIRST_LINEAR = "time_embedding.linear_1.weight"
_OLD_ATTENTION = r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\."
_PRESENT_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def to_diffusers(network: UNet) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the arguments of the `UNet2DModel` that computes what `network` does, and its state dict (a copy).

    Raises ValueError if channel_multipliers do not start with 1, or for a condition or a learned variance, none of which that has.
    """
    if network.reader != ConditionReader() or network.conv_out.out_channels != network.channels:
        raise ValueError("UNet2DModel has neither conditions nor a learned variance, and this network does")
    if network.channel_multipliers[0] != 1:
        raise ValueError(
            "diffusers needs channel_multipliers that start with 1 (its first block has base_channels), "
            f"got {list(network.channel_multipliers)}"
        )
    state_dict = {}
    for name, tensor in network.state_dict().items():
        names = _diffusers_names(name)
        for other, part in zip(names, tensor.chunk(len(names)), strict=True):
            state_dict[other] = part.detach().clone(memory_format=torch.contiguous_format)
    return _to_config(network), state_dict


def from_diffusers(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> UNet:
    """Returns the `UNet` that computes what a `UNet2DModel` with this config and these weights does, in float32.

    config: the arguments of UNet2DModel or its config.json; keys that begin with "_" are ignored.
    state_dict: its weights; attention may go by its old names (query, key, value, proj_attn).
    Raises ValueError that names the first setting or weight that has no counterpart here.
    """
    network = UNet(**unet_arguments(config))
    theirs = {_present_name(name): tensor for name, tensor in state_dict.items()}
    if config.get("flip_sin_to_cos", _DEFAULTS["flip_sin_to_cos"]) and _FIRST_LINEAR in theirs:
        # diffusers has the cosines first: the two halves of the columns are exchanged.
        weight = theirs[_FIRST_LINEAR]
        theirs[_FIRST_LINEAR] = weight.roll(weight.shape[1] // 2, dims=1)
    ours = {}
    for name, tensor in network.state_dict().items():
        names = _diffusers_names(name)
        parts = zip(names, tensor.chunk(len(names)), strict=True)
        ours[name] = torch.cat([_pop_weight(theirs, other, part.shape) for other, part in parts])
    if theirs:
        raise ValueError(f"need weights of the config's UNet2DModel alone, got {len(theirs)} more: {min(theirs)}, ...")
    network.load_state_dict(ours)
    return network


def _diffusers_names(name: str) -> list[str]:
    """Returns diffusers' names of our parameter: one name, or three where our matrix holds query, key and value."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return [name.replace(".qkv.", f".to_{part}.") for part in "qkv"] if ".qkv." in name else [name]


def _present_name(name: str) -> str:
    """Returns the present name of a weight, which attention has under an old one in early checkpoints."""
    return re.sub(_OLD_ATTENTION, lambda found: f"{found[1]}.{_PRESENT_ATTENTION[found[2]]}.", name)


def _pop_weight(state_dict: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name not in state_dict:
        raise ValueError(f"need {name} in the diffusers state dict, got no such weight")
    tensor = state_dict.pop(name)
    if tensor.shape != shape:
        raise ValueError(f"need {name} of shape {list(shape)} as its config says, got {list(tensor.shape)}")
    return tensor


def _to_config(network: UNet) -> dict[str, Any]:
    attention = ["Attn" if attends else "" for attends in network.attends]
    return {
        "sample_size": network.resolution if isinstance(network.resolution, int) else list(network.resolution),
        "in_channels": network.channels,
        "out_channels": network.channels,
        "freq_shift": network.frequency_shift,
        "flip_sin_to_cos": False,
        "down_block_types": tuple(f"{prefix}DownBlock2D" for prefix in attention),
        "up_block_types": tuple(f"{prefix}UpBlock2D" for prefix in reversed(attention)),
        "block_out_channels": tuple(network.widths),
        "layers_per_block": network.num_res_blocks,
        "downsample_padding": 1 if network.symmetric_padding else 0,
        "dropout": network.dropout,
        "attention_head_dim": network.head_channels,
        "norm_num_groups": network.norm_groups,
        # With scale_shift, diffusers leaves out the norm of the attention in the middle unless this is given.
        "attn_norm_num_groups": network.norm_groups,
        "norm_eps": network.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if network.scale_shift else "default",
    }


def unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `UNet` for a config of UNet2DModel."""
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    for name, value in given.items():
        if name in _FIXED:
            _need(value in _FIXED[name], name, value, repr(_FIXED[name][0]))
        else:
            _need(name in _DEFAULTS, name, value, "a known setting (leave it out if it changes nothing)")
    full = {**_DEFAULTS, **given}
    _check_counterpart(full)
    widths, size = full["block_out_channels"], full["sample_size"]
    return {
        "channels": full["in_channels"],
        "resolution": size,
        "base_channels": widths[0],
        "channel_multipliers": [width // widths[0] for width in widths],
        "num_res_blocks": full["layers_per_block"],
        "attention_resolutions": [max(sides(size)) // 2**i for i, attends in enumerate(_attends(full)) if attends],
        "dropout": full["dropout"],
        "head_channels": full["attention_head_dim"],
        "norm_groups": full["norm_num_groups"],
        "scale_shift": _SCALE_SHIFT[full["resnet_time_scale_shift"]],
        "frequency_shift": full["freq_shift"],
        "symmetric_padding": full["downsample_padding"] == 1,
        "norm_eps": full["norm_eps"],
    }


def _check_counterpart(config: Mapping[str, Any]) -> None:
    """Raises ValueError for values that `UNet` has no argument for."""
    widths, groups = config["block_out_channels"], config["norm_num_groups"]
    scale_shift = config["resnet_time_scale_shift"]
    attention_groups = config["attn_norm_num_groups"]
    if attention_groups is None and scale_shift == "default":
        attention_groups = groups
    for name, holds, need in (
        ("sample_size", _is_size(config["sample_size"]), "an integer, or two as [height, width] (put it into the config)"),
        ("out_channels", config["out_channels"] == config["in_channels"], "as many as in_channels"),
        ("time_embedding_dim", config["time_embedding_dim"] in (None, 4 * widths[0]), f"None or {4 * widths[0]}"),
        ("block_out_channels", not any(width % widths[0] for width in widths), "multiples of the first"),
        ("downsample_padding", config["downsample_padding"] in (0, 1), "0 or 1"),
        ("norm_num_groups", isinstance(groups, int), "an integer"),
        ("resnet_time_scale_shift", scale_shift in _SCALE_SHIFT, " or ".join(_SCALE_SHIFT)),
        ("attn_norm_num_groups", attention_groups == groups, f"norm_num_groups={groups} (None omits it beside FiLM)"),
    ):
        _need(holds, name, config[name], need)


def _is_size(value: object) -> bool:
    """Returns whether a sample_size is one integer, or two."""
    return isinstance(value, int) or (isinstance(value, list | tuple) and [type(side) for side in value] == [int, int])


def _attends(config: Mapping[str, Any]) -> list[bool]:
    """Returns whether each level has attention, from full resolution to the lowest; down and up have to agree."""
    found = {}
    for way in ("Down", "Up"):
        name = f"{way.lower()}_block_types"
        known = {f"{way}Block2D": False, f"Attn{way}Block2D": True}
        for block in config[name]:
            _need(block in known, name, block, " or ".join(known))
        _need(len(config[name]) == len(config["block_out_channels"]), name, config[name], "one per block_out_channels")
        found[way] = [known[block] for block in config[name]]
    agree = found["Up"][::-1] == found["Down"]
    _need(agree, "up_block_types", config["up_block_types"], "attention where down_block_types have it, in reverse")
    return found["Down"]


def _need(holds: bool, name: str, value: object, need: str) -> None:
    if not holds:
        raise ValueError(f"no counterpart of UNet2DModel's {name}={value!r} here: need {need}")
