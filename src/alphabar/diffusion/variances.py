"""The variance of a reverse step, which data leaves open between two bounds."""

from typing import Literal

import torch
from torch import Tensor

from alphabar.diffusion.errors import NeedsLearnedVariance
from alphabar.diffusion.schedules import Scales, Schedule, transition

Variance = Literal["posterior", "beta", "learned"]
TINY = 1e-20


def log_bounds(schedule: Schedule, at_t: Scales, at_s: Scales, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the (lower, upper) bound of the log variance of p(x_s | x_t), [B, 1, ...] (Nichol & Dhariwal 2021, sec. 3.1).

    The lower is that of q(x_s | x_t, x), right for data at one point, the upper that of q(x_t | x_s), right for normal data. At
    s = 0 the first is 0, and that of the step before stands in for it, as in their code; if there is none before, the upper does.
    """
    _, upper = transition(at_t, at_s, like)
    is_last = at_s.t == 0
    first = schedule.time(torch.ones((), dtype=torch.float32, device=like.device)).to(at_t.t.dtype)
    before = schedule.scales(torch.where(is_last, torch.minimum(2 * at_t.t, first), at_t.t))
    after = Scales(*(torch.where(is_last, *values) for values in zip(at_t, at_s, strict=True)))
    _, var_ts = transition(before, after, like)
    (_, sigma_before), (_, sigma_after) = before.like(like), after.like(like)
    has_before = sigma_before > sigma_after
    lower = torch.where(has_before, torch.minimum(var_ts * sigma_after**2 / sigma_before**2, upper), upper)
    return lower.clamp(min=TINY).log(), upper.clamp(min=TINY).log()


def log_variance(schedule: Schedule, kind: Variance, fraction: Tensor | None, at_t: Scales, at_s: Scales, like: Tensor) -> Tensor:
    """Returns the log variance of p(x_s | x_t), to broadcast against `like`: (1 - fraction) * lower + fraction * upper
    (Nichol & Dhariwal 2021, eq. 15), with fraction 0 for "posterior", 1 for "beta".

    Raises NeedsLearnedVariance, a ValueError, for "learned" without a fraction.
    """
    lower, upper = log_bounds(schedule, at_t, at_s, like)
    if kind == "posterior":
        return lower
    if kind == "beta":
        return upper
    if fraction is None:
        raise NeedsLearnedVariance("variance=learned: this network has learned none")
    return torch.lerp(lower.expand_as(fraction), upper.expand_as(fraction), fraction)
