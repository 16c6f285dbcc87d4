"""The variational bound on the negative log-likelihood of discrete processes, term by term."""

import math

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Prediction
from alphabar.diffusion.errors import NeedsDiscreteSchedule
from alphabar.diffusion.schedules import NoisedBatch, Schedule, posterior
from alphabar.diffusion.variances import TINY, Variance, log_variance

HALF_STEP = 1 / 255  # half the distance of neighbouring grey levels of bytes in [-1, 1]


def must_be_discrete(schedule: Schedule) -> None:
    """Raises NeedsDiscreteSchedule, a ValueError, for a schedule in continuous time."""
    if not schedule.is_discrete:
        raise NeedsDiscreteSchedule(f"the bound sums over the steps of a discrete schedule, {type(schedule).__name__} is not one")


def normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """Returns KL(N(mean1, var1) || N(mean2, var2)) in nats, for each element."""
    squared = (mean1 - mean2).square() * (-log_var2).exp()
    return 0.5 * (log_var2 - log_var1 - 1 + (log_var1 - log_var2).exp() + squared)


def byte_log_likelihood(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Returns the log of the mass that N(mean, var) puts on the grey level of each x, one of the 256 in [-1, 1].

    The outermost levels take all that lies beyond them (Ho et al. 2020, eq. 13); masses below 1e-12 count as 1e-12, as in their
    code.
    """
    scale = (-0.5 * log_var).exp()
    above, below = (x + HALF_STEP - mean) * scale, (x - HALF_STEP - mean) * scale
    # Above the mean, the mirror image: the difference of two numbers close to 1 would leave nothing of a small mass.
    is_above = x > mean
    mass = normal_cdf(torch.where(is_above, -below, above)) - normal_cdf(torch.where(is_above, -above, below))
    mass = torch.where(x > 1 - HALF_STEP, normal_cdf(-below), torch.where(x < -1 + HALF_STEP, normal_cdf(above), mass))
    return mass.clamp(min=1e-12).log()


def normal_cdf(z: Tensor) -> Tensor:
    """Returns P(N(0, 1) <= z), with all its digits far below 0, too."""
    return 0.5 * torch.erfc(-z / math.sqrt(2))


def bound_term(schedule: Schedule, prediction: Prediction, batch: NoisedBatch, s: Tensor, variance: Variance) -> Tensor:
    """Returns the nats per dimension [B] that the step from the batch's times t to s < t adds to the bound (Ho et al. 2020, eq. 5).

    KL(q(x_s | x_t, x) || p(x_s | x_t)) for s > 0, and -log p(x | x_t) of grey levels for s = 0. x holds bytes as in [-1, 1].
    """
    x, _, at_t, x_t = batch
    at_s = schedule.scales(s)
    true_mean, true_var = posterior(x, x_t, at_t, at_s)
    mean, _ = posterior(prediction.x_hat, x_t, at_t, at_s)
    log_var = log_variance(schedule, variance, prediction.variance, at_t, at_s, x_t).expand_as(mean)
    divergence = normal_kl(true_mean, true_var.clamp(min=TINY).log(), mean, log_var)
    _, sigma_s = at_s.like(x_t)
    # Both are finite everywhere, so that the one that is not chosen puts no NaN into gradients.
    divergence = torch.where(sigma_s > 0, divergence, torch.zeros_like(divergence))
    decoder = torch.where(sigma_s > 0, torch.zeros_like(mean), -byte_log_likelihood(x, mean, log_var))
    return (divergence + decoder).flatten(1).mean(1)


def prior_term(schedule: Schedule, x: Tensor) -> Tensor:
    """Returns KL(q(x_T | x) || N(0, alpha_T^2 + sigma_T^2)) [B] in nats per dimension: what the last step leaves of x."""
    last = schedule.time(torch.ones(len(x), dtype=torch.float32, device=x.device))
    alpha, sigma = schedule.at(last, x)
    log_var = (sigma**2).log().expand_as(x)
    prior = (alpha**2 + sigma**2).log().expand_as(x)
    return normal_kl(alpha * x, log_var, torch.zeros_like(x), prior).flatten(1).mean(1)
