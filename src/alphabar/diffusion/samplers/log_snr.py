"""The time of exponential integrators, lambda = ln(alpha / sigma)."""

from torch import Tensor

from alphabar.diffusion.samplers import finest
from alphabar.diffusion.schedules import Scales


def half_log_snr(scales: Scales, like: Tensor) -> Tensor:
    """Returns lambda at the times of `scales` [B], shaped [B, 1, ...]; float64 where there is such a type, as differences of it are
    small. inf at data."""
    value = scales.alpha.to(finest(like)).log() - scales.sigma.to(finest(like)).log()
    return value.view(-1, *(1,) * (like.ndim - 1))
