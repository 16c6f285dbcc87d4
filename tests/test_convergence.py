"""How fast the error of a solver falls with the number of steps, in float64, against the exact solution of the ODE."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

import parts
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.samplers.unipc import UniPC
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.diffusion.timesteps import Uniform
from oracle import GaussianDenoiser, MixtureDenoiser, seeded

SCHEDULES = {"edm": EDMSchedule(), "straight": StraightSchedule(), "shifted_cosine": ShiftedCosineSchedule(64)}
SAMPLERS = {name: sampler for name, sampler in parts.samplers(20, Uniform()).items() if parts.is_deterministic(sampler)}
SAMPLERS |= {"unipc1": UniPC(order=1), "unipc3": UniPC(order=3)}
# Of a sampler that is not in this list no more is known than that it converges: an order of at least 1.
# UniPC's corrector gains an order, but all begin with one step of first order, corrected to second: an error of h^3 that stays.
ORDERS = {"heun": 2, "dpmpp_2m": 2, "unipc1": 2, "unipc": 3, "unipc3": 3}
FIRST_ORDER = ("ddim", "euler")
MODES = ([0.3, 0.7], [-0.6, 0.5], [0.4, 0.4])  # weights, means and stds of the mixture


def timesteps(schedule, num_steps, high=10.0, low=0.1):
    """Even in log(sigma / alpha), ending well before data, where all samplers take a step of first order."""
    return schedule.time_of(torch.linspace(math.log(high), math.log(low), num_steps + 1, dtype=torch.float64).exp())


def slope(errors, steps):
    """The exponent p of error ~ steps^-p, by least squares in log scale."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (steps, errors))
    return -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def denoiser_of(data, schedule):
    if data == "gaussian":
        return GaussianDenoiser(schedule, 0.3, 0.5)
    return MixtureDenoiser(schedule, *(torch.tensor([values], dtype=torch.float64) for values in MODES))


def start(schedule):
    """x_T [64, 1] of N(0, 0.5^2) at the first of them."""
    (alpha, sigma), eps = schedule(timesteps(schedule, 1)[0]), seeded(0, 64, 1, dtype=torch.float64)
    return (alpha**2 * 0.25 + sigma**2).sqrt() * eps


@cache
def exact(data, name):
    """Where the ODE leads from `start`: in closed form, or by 4,000 steps of Heun's method."""
    schedule = SCHEDULES[name]
    denoiser = denoiser_of(data, schedule)
    if data == "gaussian":
        return denoiser.exact(start(schedule), *(time.expand(64) for time in timesteps(schedule, 1)))
    return Heun(num_steps=4000).sample(denoiser, start(schedule), times=timesteps(schedule, 4000))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", SAMPLERS)
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_the_error_falls_with_the_order_of_the_solver(name, solver, data):
    """The slope between 20 and 160 steps is at least the order less 0.3; that of first-order solvers is not above 1.3."""
    schedule, order, steps = SCHEDULES[name], ORDERS.get(solver, 1), [20, 40, 80, 160]
    denoiser, x_T = denoiser_of(data, schedule), start(schedule)
    ends = [replace(SAMPLERS[solver], num_steps=num).sample(denoiser, x_T, times=timesteps(schedule, num)) for num in steps]
    errors = [(end - exact(data, name)).abs().max().item() for end in ends]
    assert slope(errors, steps) > order - 0.3, errors
    if solver in FIRST_ORDER:
        assert slope(errors, steps) < 1.3, errors
    if order > 1:
        assert errors[-1] < 1e-3


def test_all_solvers_of_the_ode_are_here():
    assert {*ORDERS, *FIRST_ORDER} <= set(SAMPLERS)


def test_the_exact_solution_is_one():
    """The closed form for Gaussian data satisfies the ODE: its derivative is x_hat dalpha/dt + eps_hat dsigma/dt."""
    schedule = ShiftedCosineSchedule(64)
    denoiser = GaussianDenoiser(schedule, 0.3, 0.5)
    x = seeded(0, 8, 1, dtype=torch.float64)
    t, h = torch.full((8,), 0.6, dtype=torch.float64), 1e-5
    slope_of_solution = (denoiser.exact(x, t, t + h) - denoiser.exact(x, t, t - h)) / (2 * h)
    alpha, sigma = ((a - b) / (2 * h) for a, b in zip(schedule.at(t + h, x), schedule.at(t - h, x), strict=True))
    x_hat, eps_hat, _ = denoiser(x, t)
    torch.testing.assert_close(slope_of_solution, alpha * x_hat + sigma * eps_hat, rtol=1e-8, atol=1e-8)
