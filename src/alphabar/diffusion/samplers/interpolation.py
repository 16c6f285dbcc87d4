"""Interpolation between latents."""

import torch
from torch import Tensor

from alphabar.diffusion.samplers import finest


def slerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Returns the point at `weight` in [0, 1] of the way from `start` to `end`, both [B, ...], along the great circle through each
    pair: (sin((1 - w) * theta) * start + sin(w * theta) * end) / sin(theta) (Shoemake 1985; Song et al. 2021, DDIM, sec. 5.3).

    Halfway between two draws of noise it is as long as they are, where a straight line is shorter by sqrt(2) and gives grey images.
    theta is their angle over all dimensions of an image. Where they are parallel or opposite, there is no one such circle, and the
    way is the straight line.
    """
    a, b = (unit(vector.flatten(1).to(finest(vector))) for vector in (start, end))
    theta = (a * b).sum(1).clamp(-1, 1).acos()
    sine = theta.sin()
    is_circle = sine > 1e-6
    sine = torch.where(is_circle, sine, 1.0)
    along_start = torch.where(is_circle, ((1 - weight) * theta).sin() / sine, 1 - weight)
    along_end = torch.where(is_circle, (weight * theta).sin() / sine, weight)
    shape = (-1,) + (1,) * (start.ndim - 1)
    return along_start.view(shape).to(start.dtype) * start + along_end.view(shape).to(start.dtype) * end


def unit(vectors: Tensor) -> Tensor:
    """Returns each of `vectors` [B, D] with length 1; a zero stays one."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
