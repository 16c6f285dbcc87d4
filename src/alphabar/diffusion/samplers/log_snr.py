"""The time of exponential integrators, lambda = ln(alpha / sigma)."""

from torch import Tensor

from alphabar.diffusion.samplers import finest
from alphabar.diffusion.schedules import Schedule


def half_log_snr(schedule: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """Returns lambda of t [B], shaped [B, 1, ...]; float64 where there is such a type: differences of it are small. inf at data."""
    alpha, sigma = schedule(t)
    value = alpha.to(finest(like)).log() - sigma.to(finest(like)).log()
    return value.view(-1, *(1,) * (like.ndim - 1))
