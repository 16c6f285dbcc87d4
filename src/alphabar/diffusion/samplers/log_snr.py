"""What exponential integrators have in common: time measured as lambda = ln(alpha / sigma)."""

import torch
from torch import Tensor

from alphabar.diffusion.schedules import Schedule


def half_log_snr(schedule: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """lambda of t [B], shaped [B, 1, ...]; float64 where there is such a type: differences of it are small. inf at data."""
    alpha, sigma = schedule(t)
    precise = torch.float32 if like.device.type == "mps" else torch.float64
    value = alpha.to(precise).log() - sigma.to(precise).log()
    return value.view(-1, *(1,) * (like.ndim - 1))
