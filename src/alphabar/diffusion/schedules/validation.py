"""Checks that a schedule, whoever wrote it, runs from data to noise."""

import torch
from torch import Tensor

from alphabar.diffusion.description import describe_tensors
from alphabar.diffusion.schedules import Schedule

NUM_LEVELS = 65  # at which a schedule is looked at
TOLERANCE = 0.01  # of the scales of data, for schedules that keep a little noise there
ROUNDING = 1e-6
DTYPES = (torch.float32, torch.float64)


def check_schedule(schedule: Schedule) -> None:
    """Raises ValueError, in one line, unless time runs from data to noise at every level that is looked at.

    alpha and sigma have to be numbers [B] for times [B], >= 0 and finite in float32; alpha(0) = 1, sigma(0) = 0, and sigma / alpha
    rises with t.
    """
    name = f"schedule: {type(schedule).__name__}"
    level = torch.linspace(0, 1, NUM_LEVELS, dtype=torch.float64)
    times = schedule.time(level)
    t = torch.cat([times.new_zeros(1), times]).unique()  # in rising order
    scales = schedule(t)
    if not isinstance(scales, tuple) or len(scales) != 2:
        raise ValueError(f"{name}: need (alpha_t, sigma_t) of times t, got {type(scales).__name__}")
    if any(not isinstance(each, Tensor) or each.shape != t.shape or each.dtype not in DTYPES for each in scales):
        found = [describe_tensors(each) for each in (t, *scales)]
        raise ValueError(
            f"{name}: need a number of float64 or float32 for each time, [B] for t [B]; "
            f"here t is {found[0]}, alpha(t) {found[1]} and sigma(t) {found[2]}"
        )
    alpha, sigma = (each.detach().double() for each in scales)
    texts = [
        f"alpha({time:.4g}) = {signal:.4g}, sigma({time:.4g}) = {noise:.4g}"
        for time, signal, noise in zip(t.tolist(), alpha.tolist(), sigma.tolist(), strict=True)
    ]
    is_finite = alpha.float().isfinite() & sigma.float().isfinite()
    is_good = is_finite & (alpha >= -ROUNDING) & (sigma >= 0)
    if not is_good.all():
        raise ValueError(f"{name}: need alpha(t) and sigma(t) that are finite and >= 0, got {texts[int(is_good.long().argmin())]}")
    if abs(alpha[0] - 1) > TOLERANCE or sigma[0] > TOLERANCE:
        raise ValueError(f"{name}: need alpha(0) = 1 and sigma(0) = 0, as time runs from data to noise, got {texts[0]}")
    turn = sigma[1:] * alpha[:-1] - sigma[:-1] * alpha[1:]  # > 0 where the ratio rises; also of alpha = 0
    rises = turn >= -ROUNDING * (alpha.square() + sigma.square())[1:]
    if not rises.all() or turn.sum() <= 0:
        place = int(rises.long().argmin())
        raise ValueError(f"{name}: need sigma(t) / alpha(t) that rises with t, got {texts[place]}, {texts[place + 1]}")
