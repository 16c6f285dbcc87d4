"""Conversion of weights from `diffusers.DiTTransformer2DModel`, without diffusers itself."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.(.+)\.(weight|bias)")
_IN_BLOCK = {
    "norm1.linear": "modulation",
    "attn1.to_out.0": "attention.out",
    "ff.net.0.proj": "mlp.0",
    "ff.net.2": "mlp.2",
}
_OUTSIDE = {
    "pos_embed.proj.bias": "patch_in.bias",
    "proj_out_1.weight": "modulation.weight",
    "proj_out_1.bias": "modulation.bias",
}
_EMBEDDING = {"timestep_embedder.linear_1": "embedding.linear1", "timestep_embedder.linear_2": "embedding.linear2"}
_CLASSES = "class_embedder.embedding_table.weight"


class DiTWeights(NamedTuple):
    """The weights of a `DiTTransformer2DModel` under the names of our `DiT`.

    arguments: those of the equivalent `DiT`, up to the eps of a norm. weights: by their names in a `DiT` with vector_channels =
    width, whose vector is the class embedding itself. classes: the class embeddings [K + 1, width], the last one for no class.
    """

    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    classes: Tensor


def dit_from_diffusers(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> DiTWeights:
    """Returns the weights of a `DiTTransformer2DModel` with this config for a `DiT`.

    Raises ValueError that names the first setting or weight that has no counterpart here.
    """
    for name, known in (("norm_type", "ada_norm_zero"), ("activation_fn", "gelu-approximate"), ("norm_elementwise_affine", False)):
        if config.get(name, known) != known:
            raise ValueError(f"no counterpart of DiTTransformer2DModel's {name}={config[name]!r} here: need {known!r}")
    weights = _embedding_weights(state_dict)
    classes = weights.pop(_CLASSES)
    patch_in = _pick(state_dict, "pos_embed.proj.weight")
    width, channels, patch_size, _ = patch_in.shape
    weights["patch_in.weight"] = patch_in.flatten(1)
    for part in ("weight", "bias"):
        weights[f"patch_out.{part}"] = _channels_first(_pick(state_dict, f"proj_out_2.{part}"), patch_size)
    for name, ours in _OUTSIDE.items():
        weights[ours] = _pick(state_dict, name)
    for name, tensor in state_dict.items():
        if (found := _BLOCK.fullmatch(name)) is not None and found[2] in _IN_BLOCK:
            weights[f"blocks.{found[1]}.{_IN_BLOCK[found[2]]}.{found[3]}"] = tensor
        elif found is not None and found[2] == "attn1.to_q":
            parts = [_pick(state_dict, name.replace("to_q", f"to_{part}")) for part in "qkv"]
            weights[f"blocks.{found[1]}.attention.qkv.{found[3]}"] = torch.cat(parts)
    weights["embedding.vector.weight"], weights["embedding.vector.bias"] = torch.eye(width), torch.zeros(width)
    hidden = _pick(state_dict, "transformer_blocks.0.ff.net.0.proj.weight").shape[0]
    arguments = {
        "channels": channels,
        "resolution": config.get("sample_size", 32),
        "patch_size": patch_size,
        "width": width,
        "depth": len([name for name in weights if name.endswith("qkv.weight")]),
        "num_heads": config.get("num_attention_heads", 16),
        "mlp_ratio": hidden / width,
        "frequency_shift": 1,
        "learned_variance": weights["patch_out.bias"].numel() == 2 * channels * patch_size**2,
        "vector_channels": width,
    }
    return DiTWeights(arguments, weights, classes)


def _embedding_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the embedding of noise level and class, which diffusers repeats in each block.

    Raises ValueError if the repetitions differ.
    """
    prefix = "transformer_blocks.0.norm1.emb."
    found = {}
    for name, tensor in state_dict.items():
        block, between, part = name.partition(".norm1.emb.")
        if between and block != "transformer_blocks.0" and not tensor.equal(_pick(state_dict, prefix + part)):
            raise ValueError(f"need one embedding of the noise level for all blocks, got another in {block}")
    for name, ours in _EMBEDDING.items():
        for part in ("weight", "bias"):
            found[f"{ours}.{part}"] = _pick(state_dict, f"{prefix}{name}.{part}")
    first = found["embedding.linear1.weight"]
    # diffusers has the cosines first: the two halves of the columns are exchanged.
    found["embedding.linear1.weight"] = first.roll(first.shape[1] // 2, dims=1)
    found[_CLASSES] = _pick(state_dict, prefix + _CLASSES)
    return found


def _channels_first(rows: Tensor, patch_size: int) -> Tensor:
    """Returns rows of the last layer in the order (channel, row, column), from diffusers' (row, column, channel)."""
    return rows.unflatten(0, (patch_size, patch_size, -1)).movedim(2, 0).flatten(0, 2)


def _pick(state_dict: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state_dict:
        raise ValueError(f"need {name} in the diffusers state dict, got no such weight")
    return state_dict[name]
