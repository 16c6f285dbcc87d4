"""How likely data is to a model: the variational bound of a discrete process, and the density under the probability-flow ODE."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

from alphabar.diffusion.bound import HALF_STEP, bound_term, must_be_discrete, normal_cdf, prior_term
from alphabar.diffusion.denoiser import Cond, Denoiser
from alphabar.diffusion.schedules import Schedule
from alphabar.diffusion.schedules.continuous import need_steps
from alphabar.diffusion.schedules.edm import rho_spaced
from alphabar.diffusion.variances import Variance

Noise = Callable[[Tensor], Tensor]
FIRST_RATIO = 0.002  # sigma / alpha next to data where a schedule begins with none: less than the noise of dequantisation
LAST_RATIO = 150.0  # above it nothing is to be seen of the data, and a single step leads to the last time


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x: Tensor,
    cond: Cond,
    variance: Variance,
    noise: Noise,
    times: Tensor | None = None,
    num_terms: int | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> Tensor:
    """Returns an upper bound [B] on -log p(x) in nats per dimension, from one draw of x_t for each of its terms (Ho et al. 2020,
    eq. 5).

    KL(q(x_T | x) || p(x_T)) + sum over s > 0 of KL(q(x_s | x_t, x) || p(x_s | x_t)) - log p(x | x_t) of the step to s = 0

    x: bytes, as floats in [-1, 1]. noise(like): draws from N(0, 1). times: the steps, falling from T to 0; None: all there are.
    num_terms: one step out of each of so many ranges stands for all of its range, drawn for each row: unbiased; None: every step.
    on_step is called after each term.
    Raises ValueError on a schedule that is not discrete, for times that do not go from T to 0, unless 1 <= num_terms <= the number
    of steps, or for variance "learned" with a network that has learned none.
    """
    schedule = denoiser.schedule
    steps = _rising(schedule, times).to(x.device)
    bound = prior_term(schedule, x)
    for low, high in pairwise(ranges_of_steps(len(steps) - 1, num_terms)):
        place = normal_cdf(noise(x.new_zeros(len(x), 1)))[:, 0]
        index = low + (place * (high - low)).long().clamp(max=high - low - 1)
        s, t = steps[index], steps[index + 1]
        batch = schedule.noised(x, t, noise(x))
        bound = bound + (high - low) * bound_term(schedule, denoiser(batch.x_t, t, cond), batch, s, variance)
        on_step()
    return bound


def _rising(schedule: Schedule, times: Tensor | None) -> Tensor:
    """Returns the steps of the bound [N + 1], from 0 to T. Raises ValueError as `variational_bound`."""
    must_be_discrete(schedule)
    times = schedule.timesteps(None) if times is None else times
    last = int(schedule.time(torch.ones(())))
    if times[0] != last or times[-1] != 0 or not (times.diff() < 0).all():
        raise ValueError(f"need times that fall from {last} to 0, got {times.tolist()[:3]} ... {times.tolist()[-1:]}")
    return times.flip(0)


def ranges_of_steps(num_steps: int, num_terms: int | None) -> list[int]:
    """Returns the borders of `num_terms` ranges of 0..num_steps; the first are shorter, where terms are larger and fall faster."""
    num_terms = num_steps if num_terms is None else num_terms
    if not 1 <= num_terms <= num_steps:
        raise ValueError(f"need 1 <= num_terms <= {num_steps}, the steps there are, got num_terms={num_terms}")
    return [max(i, round(num_steps * (i / num_terms) ** 2)) for i in range(num_terms + 1)]


def probability_flow(
    denoiser: Denoiser,
    x: Tensor,
    cond: Cond,
    times: Tensor,
    probes: Tensor,
    on_step: Callable[[], object] = lambda: None,
) -> Tensor:
    """Returns log p(x) [B] in nats under the ODE between noise and data, on any schedule (Song et al. 2021, "Score-Based ...", eq.
    39).

    dx_t = x_hat dalpha + eps_hat dsigma along the curve (alpha, sigma), so d log p = -(tr(dx_hat/dx_t) dalpha + tr(deps_hat/dx_t)
    dsigma), both by Heun's rule; tr J = E[v^T J v] (Hutchinson's; Grathwohl et al. 2019); p(x_T) = N(0, alpha_T^2 + sigma_T^2).
    All of it holds for c * alpha, c * sigma and c * x_t, too: with c = (alpha^2 + sigma^2)^(-1/2) every curve is part of a circle.

    x is taken as the state at the first time t > 0, up to its scale: p is the density of x_t / alpha_t.
    times: falling, as `Timesteps` give them; the 0 among them is left out. probes: v, [P, B, ...] with E[v v^T] = 1, fixed along
    the path; the traces are means over P. on_step is called after each step. Gradients need not be enabled.
    """
    rising = times[times > 0].flip(0).to(x.device, x.dtype if times.is_floating_point() else times.dtype)
    points = [_Point.of(denoiser.schedule, t.expand(len(x)), x) for t in rising]
    z, log_p = points[0].alpha * x, points[0].alpha.log().expand_as(x).flatten(1).sum(1)
    for here, there in pairwise(points):
        begin, begin_trace = _slope(denoiser, z, cond, here, (here, there), probes)
        end, end_trace = _slope(denoiser, z + begin, cond, there, (here, there), probes)
        z, log_p = z + (begin + end) / 2, log_p + (begin_trace + end_trace) / 2
        on_step()
    return log_p - 0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)


class _Point(NamedTuple):
    """A point of the unit circle, alpha^2 + sigma^2 = 1, where x_t is `length` times as long; t [B], the others [B, 1, ...]."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    length: Tensor

    @classmethod
    def of(cls, schedule: Schedule, t: Tensor, like: Tensor) -> Self:
        alpha, sigma = schedule.at(t, like)
        length = torch.hypot(alpha, sigma)
        return cls(t, alpha / length, sigma / length, length)


def _slope(
    denoiser: Denoiser, z: Tensor, cond: Cond, at: _Point, ends: tuple[_Point, _Point], probes: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns dz = x_hat dalpha + eps_hat dsigma [B, ...] from the first end to the second, and the trace of its Jacobian [B].

    z [B, ...]: x_t / length, at the point `at` where the network is evaluated.
    """
    begin, end = ends
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        prediction = denoiser(at.length * z, at.t, cond)
        dz = prediction.x_hat * (end.alpha - begin.alpha) + prediction.eps_hat * (end.sigma - begin.sigma)
        products = [torch.autograd.grad(dz, z, v, retain_graph=i < len(probes))[0] for i, v in enumerate(probes, 1)]
    traces = [(product * v).flatten(1).sum(1) for product, v in zip(products, probes, strict=True)]
    return dz.detach(), torch.stack(traces).mean(0)


def flow_times(schedule: Schedule, num_steps: int) -> Tensor:
    """Returns falling times for `num_steps` steps of `probability_flow`, fewer where a discrete schedule has no more, with 0 behind
    them.

    Even in (sigma / alpha)^(1/7), as in Karras et al. 2022, eq. 5, from the schedule's first level of noise, 0.002 if that is 0, up
    to 150; the last step of the flow goes on to the schedule's end. Raises ValueError unless num_steps >= 1.
    """
    end = schedule.time(torch.ones(1, dtype=torch.float64))
    need_steps(num_steps)
    num_steps = min(num_steps, int(end) - 1) if schedule.is_discrete else num_steps
    first, last = schedule.noise_range()
    level = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    times = schedule.time_of(rho_spaced(level, first or FIRST_RATIO, min(last, LAST_RATIO), 7.0))
    return schedule.snap(torch.cat([end, times[1:]]))


def rademacher(noise: Noise, x: Tensor, num: int) -> Tensor:
    """Returns probes of +1 and -1 with even odds, [num, *x.shape]: of all, those whose traces vary least (Hutchinson 1989)."""
    return torch.stack([torch.where(noise(x) < 0, -torch.ones_like(x), torch.ones_like(x)) for _ in range(num)])


def dequantised(x: Tensor, noise: Noise) -> Tensor:
    """Returns x + (u - 1/2) * 2/255 with u uniform in [0, 1): bytes in [-1, 1] as continuous data (Theis et al. 2016, sec. 3.1)."""
    return x + (normal_cdf(noise(x)) - 0.5) * 2 * HALF_STEP


def bits_of_density(log_p: Tensor, num_dims: int) -> Tensor:
    """Returns -log2 p / D + log2(127.5): bits per dimension of bytes whose dequantised values in [-1, 1] have density p."""
    return -log_p / (num_dims * math.log(2)) + math.log2(127.5)
