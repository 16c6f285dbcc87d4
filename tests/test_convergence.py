"""How fast the error of a solver falls with the number of steps, in float64, against the exact solution of the ODE."""

import math

import pytest
import torch

from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.samplers.unipc import UniPC
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from oracle import GaussianDenoiser, MixtureDenoiser, seeded

SCHEDULES = {"edm": EDMSchedule(), "straight": StraightSchedule(), "shifted_cosine": ShiftedCosineSchedule(64)}
ORDERS = {
    "ddim": (DDIM, {}, 1),
    "euler": (Euler, {}, 1),
    "heun": (Heun, {}, 2),
    "dpmpp_2m": (DPMpp2M, {}, 2),
    # The corrector gains an order, but all begin with one step of first order, corrected to second: an error of h^3 that stays.
    "unipc1": (UniPC, {"order": 1}, 2),
    "unipc2": (UniPC, {"order": 2}, 3),
    "unipc3": (UniPC, {"order": 3}, 3),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def grid(schedule, num_steps, high=10.0, low=0.1):
    """Even in log(sigma / alpha), ending well before data, where all samplers take a step of first order."""
    return schedule.time_of(torch.linspace(math.log(high), math.log(low), num_steps + 1, dtype=torch.float64).exp())


def slope(errors, steps):
    """The exponent p of error ~ steps^-p, by least squares in log scale."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (steps, errors))
    return -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@every_schedule
@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_the_error_falls_with_the_order_of_the_solver(schedule, name, data):
    """The slope between 20 and 160 steps is at least the order less 0.3; that of first-order solvers is not above 1.3."""
    solver, settings, order = ORDERS[name]
    if data == "gaussian":
        denoiser = GaussianDenoiser(schedule, 0.3, 0.5)
    else:
        modes = [torch.tensor([values], dtype=torch.float64) for values in ([0.3, 0.7], [-0.6, 0.5], [0.4, 0.4])]
        denoiser = MixtureDenoiser(schedule, *modes)
    eps = seeded(0, 64, 1, dtype=torch.float64)
    begin, end = grid(schedule, 1)
    alpha, sigma = schedule(begin)
    x_T = (alpha**2 * 0.25 + sigma**2).sqrt() * eps

    def run(num_steps, solver=solver, settings=settings):
        sampler = solver(num_steps=num_steps, **settings)
        return sampler.sample(denoiser, x_T, times=grid(schedule, num_steps))

    exact = denoiser.exact(x_T, begin.expand(64), end.expand(64)) if data == "gaussian" else run(4000, Heun, {})
    steps = [20, 40, 80, 160]
    errors = [(run(num) - exact).abs().max().item() for num in steps]
    assert slope(errors, steps) > order - 0.3, errors
    if order == 1:
        assert slope(errors, steps) < 1.3, errors
    else:
        assert errors[-1] < 1e-3


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
