"""The density under the probability-flow ODE against closed forms, and what each image has by itself."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from alphabar.diffusion.denoiser import Denoiser, NetworkDenoiser, Prediction
from alphabar.diffusion.likelihood import (
    bits_of_density,
    dequantised,
    flow_times,
    probability_flow,
    rademacher,
    variational_bound,
)
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.parameterizations import V
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from oracle import GaussianDenoiser, MixtureDenoiser, log_normal, seeded
from test_oracle import SCHEDULES as ORACLE_SCHEDULES

SCHEDULES = ORACLE_SCHEDULES | {"linear-50": LinearSchedule(50, 1e-3, 0.3)}
MEAN, STD = 0.3, 0.25


def signs(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)


def ends(schedule, times):
    """(alpha, sigma) of the first time after data and of the last, float64."""
    for t in (times[-2], times[0]):
        alpha, sigma = schedule(t.double() if times.is_floating_point() else t)
        yield alpha.double(), sigma.double()


def density(schedule, x, num_steps, denoiser=None):
    times = flow_times(schedule, num_steps)
    denoiser = denoiser or GaussianDenoiser(schedule, MEAN, STD)
    return times, probability_flow(denoiser, x, None, times, rademacher(signs(), x, 1))


def closed_form(schedule, times, x):
    """log p [B] where the data is N(MEAN, STD^2): the ODE maps each of its quantiles to the same one of x_T, which p sees as normal.

    p(x_T) is N(0, alpha_T^2 + sigma_T^2), from which the true x_T differs a little.
    """
    (alpha, sigma), (alpha_T, sigma_T) = ends(schedule, times)
    std, std_T = (alpha**2 * STD**2 + sigma**2).sqrt(), (alpha_T**2 * STD**2 + sigma_T**2).sqrt()
    x_T = alpha_T * MEAN + std_T / std * alpha * (x - MEAN)
    return (log_normal(x_T, torch.zeros(()), alpha_T**2 + sigma_T**2) + torch.log(alpha * std_T / std)).sum(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_density_of_gaussian_data_is_that_in_closed_form(schedule, dtype):
    """400 steps, to 5e-4 nats per dimension (seen: 3e-4); on a schedule that has no more than 50 it is 0.01."""
    x = (MEAN + STD * seeded(0, 64, 5, dtype=torch.float64)).to(dtype)
    times, log_p = density(schedule, x, 400)
    error = (log_p - closed_form(schedule, times, x)).abs().max() / 5
    assert error < (5e-4 if len(times) > 100 else 0.015)


@pytest.mark.parametrize("name", ["edm", "straight", "shifted_cosine"])
def test_the_error_falls_with_the_square_of_the_steps(name):
    schedule, x = SCHEDULES[name], MEAN + STD * seeded(0, 64, 5, dtype=torch.float64)
    errors = []
    for num_steps in (25, 50, 100):
        times, log_p = density(schedule, x, num_steps)
        errors.append((log_p - closed_form(schedule, times, x)).abs().mean().item())
    for coarse, fine in pairwise(errors):
        assert 3 < coarse / fine < 5.5


@pytest.mark.parametrize("name", ["linear", "cosine", "edm", "straight", "shifted_cosine"])
def test_the_density_of_a_mixture_is_that_in_closed_form(name):
    """0.3 N(-0.6, 0.15^2) + 0.7 N(0.5, 0.2^2), with the noise of the first time; 400 steps. It integrates to one.

    The density is 0.9 at most and off by 1e-3 at most, twice that on the EDM schedule, in whose x_T the data still shows."""
    schedule = SCHEDULES[name]
    weights, means, stds = (torch.tensor([values], dtype=torch.float64) for values in ((0.3, 0.7), (-0.6, 0.5), (0.15, 0.2)))
    x = torch.linspace(-1.5, 1.6, 311, dtype=torch.float64)[:, None]
    times, log_p = density(schedule, x, 400, MixtureDenoiser(schedule, weights, means, stds))
    (alpha, sigma), _ = ends(schedule, times)
    expected = torch.logsumexp(weights.log() + log_normal(x, means, stds**2 + (sigma / alpha) ** 2), 1)
    assert torch.trapezoid(log_p.exp(), x[:, 0]).item() == pytest.approx(1, abs=2e-3)
    assert (log_p.exp() - expected.exp()).abs().max() < (3e-3 if name == "edm" else 1.5e-3)


class CorrelatedDenoiser(Denoiser):
    """E[x | x_t] for data N(0, covariance): its Jacobian is not diagonal, so that a trace takes more than one probe."""

    def __init__(self, schedule, covariance):
        super().__init__()
        self.schedule = schedule
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.schedule.at(t, x_t)
        x_hat = (x_t @ self.vectors * alpha * self.values / (alpha**2 * self.values + sigma**2)) @ self.vectors.T
        return Prediction(x_hat, (x_t - alpha * x_hat) / sigma)


def test_probes_estimate_the_trace_without_bias():
    """With sqrt(D) e_i for probes the trace is exact; with 1 and -1 it is right on average, to four standard errors of 0.03."""
    schedule, num = SCHEDULES["edm"], 2000
    covariance = 0.06 * torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.2, 0.5], [0.3, 0.5, 0.7]], dtype=torch.float64)
    denoiser, times = CorrelatedDenoiser(schedule, covariance), flow_times(schedule, 200)
    x = torch.tensor([[0.2, -0.1, 0.3]], dtype=torch.float64)
    basis = math.sqrt(3) * torch.eye(3, dtype=torch.float64)[:, None]
    exact = probability_flow(denoiser, x, None, times, basis)
    normal = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance + 0.002**2 * torch.eye(3).double())
    assert exact.item() == pytest.approx(normal.log_prob(x).item(), abs=6e-3)
    many = x.expand(num, 3)
    one, four = (probability_flow(denoiser, many, None, times, rademacher(signs(), many, probes)) for probes in (1, 4))
    for estimate in (one, four):
        standard_error = estimate.std() / math.sqrt(num)
        assert 0 < standard_error < 0.04
        assert (estimate.mean() - exact).abs() < 4 * standard_error
    assert four.std().item() == pytest.approx(one.std().item() / 2, rel=0.15)


class Wave(nn.Module):
    """Any smooth network."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(seeded(5, 8, 8) / 4)

    def forward(self, x, label, cond=None):
        return torch.sin(3 * x @ self.mix + label.view(-1, 1, 1, 1).float() / 200)


def test_an_image_has_its_own_likelihood_whatever_it_is_measured_with():
    """Without gradients outside, of frozen weights, alone or among others; and nothing is left behind at the weights."""
    denoiser = NetworkDenoiser(Wave(), CosineSchedule(60), V()).eval().requires_grad_(False)
    x, times = seeded(0, 5, 1, 8, 8).clamp(-1, 1), flow_times(denoiser.schedule, 12)

    def measure(indices):
        noise = ImageNoise(7, indices)
        rows = x[indices]
        flow = probability_flow(denoiser, rows, None, times, rademacher(noise, rows, 2))
        return flow, variational_bound(denoiser, rows, None, "beta", noise, num_terms=9)

    with torch.no_grad():
        together = measure([0, 1, 2, 3, 4])
        apart = measure([3, 1])
        for all_of_them, some in zip(together, apart, strict=True):
            assert not some.requires_grad
            torch.testing.assert_close(some, all_of_them[[3, 1]], rtol=1e-4, atol=1e-4)
            assert len(set(all_of_them.tolist())) == 5
    assert denoiser.network.mix.grad is None


def test_dequantised_bytes_fill_their_grey_level():
    x = (torch.arange(256) / 127.5 - 1).repeat(50)[:, None]
    off = (dequantised(x, signs()) - x) * 127.5
    assert off.min() > -0.5001
    assert off.max() < 0.5001
    assert off.mean().item() == pytest.approx(0, abs=0.01)
    assert off.std().item() == pytest.approx(12**-0.5, abs=0.01)


@pytest.mark.parametrize("num_dims", [1, 192])
def test_a_uniform_density_takes_eight_bits(num_dims):
    """256 grey levels as broad as 2/255, all as likely."""
    log_p = torch.tensor([-num_dims * math.log(256 * 2 / 255)], dtype=torch.float64)
    assert bits_of_density(log_p, num_dims).item() == pytest.approx(8)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_the_flow_goes_from_the_first_noise_to_the_last(schedule, num_steps):
    times = flow_times(schedule, num_steps)
    assert len(times) == (min(num_steps, schedule.num_steps - 1) if schedule.is_discrete else num_steps) + 2
    assert (times.diff() < 0).all()
    assert times[0] == schedule.time(torch.ones((), dtype=torch.float64))
    first, _ = schedule.noise_range()
    (alpha, sigma), _ = ends(schedule, times)
    assert (sigma / alpha).item() == pytest.approx(first or 0.002, rel=1e-6)


def test_a_flow_without_steps_is_refused():
    with pytest.raises(ValueError, match="need num_steps >= 1"):
        flow_times(EDMSchedule(), 0)
