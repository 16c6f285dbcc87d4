"""Attention and GroupNorm in the form that is fastest on the device; the forms differ in rounding, in attention more coarsely."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SCORES = 2**26  # numbers q k^T that a layer may have in memory: 128 MB in bfloat16, kept for the backward pass


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns softmax(q k^T / sqrt(D)) v [B, H, N, D] for q [B, H, N, D], k and v [B, H, M, D].

    mask: bool, which broadcasts to [B, H, N, M], of the keys that take part; None: all do.
    On a CPU, the fused kernel of torch takes two to four times as long in bfloat16 as the two products of matrices, between which
    scores are rounded to bfloat16: the error is up to twice that of the kernel.
    """
    is_slow = q.device.type == "cpu" and q.dtype == torch.bfloat16
    if not is_slow or q.shape[:-1].numel() * k.shape[-2] > MAX_SCORES:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ v


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Returns norm(x) in the dtype of x.

    On a CPU, torch normalises bfloat16 in the memory format channels_last up to four times as slowly as float32, so in float32.
    """
    return norm(x.float()).to(x.dtype) if _is_slow_in_bfloat16(x) else norm(x)


def group_norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Returns SiLU(norm(x)) in the dtype of x; in float32 inside where `group_norm` is, for SiLU is faster in it, too."""
    return F.silu(norm(x.float() if _is_slow_in_bfloat16(x) else x)).to(x.dtype)


def _is_slow_in_bfloat16(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and not x.is_contiguous()
