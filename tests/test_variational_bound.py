"""The variational bound as a whole against what is known of Gaussian data."""

import math
from itertools import pairwise

import pytest
import torch

from alphabar.diffusion.bound import byte_log_likelihood, prior_term
from alphabar.diffusion.likelihood import ranges_of_steps, variational_bound
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.thresholdings import Static, Thresholded
from oracle import BYTES, GaussianDenoiser, log_normal, seeded
from test_bound import SCHEDULES, SHORT

MEAN, STD = 0.2, 0.3


def expected_bound(schedule, x, variance):
    """The bound of each byte x [N] over all steps, in expectation over x_t, where the denoiser is exact for N(MEAN, STD^2).

    x_hat - x is linear in x_t there, so that the square in each divergence has a mean in closed form; the last term is integrated.
    """
    alpha, sigma = (value.double() for value in (schedule.alpha, schedule.sigma))
    alpha_ts = alpha[1:] / alpha[:-1]
    var_ts = sigma[1:] ** 2 - alpha_ts**2 * sigma[:-1] ** 2
    gain = alpha[1:] * STD**2 / (alpha[1:] ** 2 * STD**2 + sigma[1:] ** 2)
    off = (1 - gain * alpha[1:]) * (MEAN - x[:, None])  # the mean of x_hat - x, and its variance
    spread = (gain * sigma[1:]) ** 2
    true_var = var_ts * sigma[:-1] ** 2 / sigma[1:] ** 2
    used = true_var if variance == "posterior" else var_ts
    square = (alpha[:-1] * var_ts / sigma[1:] ** 2) ** 2 * (off**2 + spread)
    divergence = 0.5 * (used.log() - true_var.log() - 1 + true_var / used + square / used)[:, 1:].sum(1)
    eps = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    x_1 = alpha[1] * x[:, None] + sigma[1] * eps
    x_hat = MEAN + gain[0] * (x_1 - alpha[1] * MEAN)
    last_var = used[1] if variance == "posterior" else var_ts[0]
    log_mass = byte_log_likelihood(x[:, None].expand_as(x_hat), x_hat, last_var.log().expand_as(x_hat))
    decoder = -torch.trapezoid(log_mass * log_normal(eps, 0, 1).exp(), eps)
    return prior_term(schedule, x[:, None]) + divergence + decoder


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("schedule", [LinearSchedule(50, 1e-3, 0.3), CosineSchedule(50), SHORT], ids=["linear", "cosine", "short"])
def test_the_bound_is_its_expectation_in_closed_form(schedule, variance):
    """Drawn 4,000 times for each of five bytes; four standard errors, each one or two hundredths of the bound."""
    x = BYTES[[10, 100, 153, 160, 250]]
    many = x.repeat(4000)[:, None]
    generator = torch.Generator().manual_seed(0)

    def noise(like):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    drawn = variational_bound(GaussianDenoiser(schedule, MEAN, STD), many, None, variance, noise).view(4000, 5)
    expected, standard_error = expected_bound(schedule, x, variance), drawn.std(0) / math.sqrt(4000)
    assert (standard_error < 0.02 * expected).all()
    assert ((drawn.mean(0) - expected).abs() < 4 * standard_error).all()


@pytest.mark.parametrize("num_terms", [1, 7, 50])
def test_a_few_terms_stand_for_all_without_bias(num_terms):
    """Drawn 30,000 times for one byte, which is also 30,000 rows, each with steps of its own; four standard errors."""
    schedule = CosineSchedule(50)
    x = BYTES[[100]].repeat(30_000)[:, None]
    generator, calls = torch.Generator().manual_seed(1), []

    def noise(like):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    denoiser = GaussianDenoiser(schedule, MEAN, STD)
    drawn = variational_bound(denoiser, x, None, "beta", noise, num_terms=num_terms, on_step=lambda: calls.append(1))
    expected, standard_error = expected_bound(schedule, x[:1, 0], "beta"), drawn.std() / math.sqrt(30_000)
    assert len(calls) == num_terms
    assert standard_error < 0.03 * expected
    assert (drawn.mean() - expected).abs() < 4 * standard_error


def test_the_ranges_part_all_steps():
    for num_steps in (1, 2, 3, 10, 37, 100):
        for num_terms in range(1, num_steps + 1):
            borders = ranges_of_steps(num_steps, num_terms)
            assert (borders[0], borders[-1], len(borders)) == (0, num_steps, num_terms + 1)
            assert all(low < high for low, high in pairwise(borders))
    assert ranges_of_steps(100, 10)[:4] == [0, 1, 4, 9]
    assert ranges_of_steps(50, 50) == list(range(51))


def test_the_bound_closes_in_on_the_entropy_of_the_bytes():
    """Bytes of N(MEAN, STD^2), 5.049 nats: no model does better than that, and with more steps less is lost.

    It does not go down to nothing: the first noise, 0.014, still carries more information on x than its grey level. The lower bound of the
    variance is too narrow for Gaussian data, and costs more, however many steps there are.
    """
    log_p = byte_log_likelihood(BYTES, torch.tensor(MEAN).double(), torch.tensor(2 * math.log(STD)).double())
    entropy = -(log_p.exp() * log_p).sum().item()
    gaps = {"beta": [], "posterior": []}
    for num_steps in (30, 100, 300, 1000, 3000):
        schedule = LinearSchedule(num_steps, 2e-4, 20 / num_steps)
        for variance, found in gaps.items():
            found.append((log_p.exp() * expected_bound(schedule, BYTES, variance)).sum().item() - entropy)
    for found in gaps.values():
        assert found == sorted(found, reverse=True)
    assert 0 < gaps["beta"][-1] < gaps["beta"][-2] < 0.01
    assert all(narrow > wide for narrow, wide in zip(gaps["posterior"], gaps["beta"], strict=True))


def test_what_is_drawn_closes_in_on_the_entropy_too():
    """`variational_bound` itself, at every grey level by its probability, 1,000 steps in float32: 0.01 nats above 5.049,
    and as much to chance."""
    log_p = byte_log_likelihood(BYTES, torch.tensor(MEAN).double(), torch.tensor(2 * math.log(STD)).double())
    entropy = -(log_p.exp() * log_p).sum().item()
    schedule, generator = LinearSchedule(1000, 2e-4, 0.02), torch.Generator().manual_seed(0)
    noise = lambda like: torch.randn(like.shape, generator=generator)  # noqa: E731
    denoiser, x = GaussianDenoiser(schedule, MEAN, STD), BYTES.float()[:, None].expand(256, 40)  # 40 dimensions
    drawn = variational_bound(denoiser, x, None, "beta", noise).double()
    bound, expected = ((log_p.exp() * value).sum().item() for value in (drawn, expected_bound(schedule, BYTES, "beta")))
    assert bound == pytest.approx(expected, abs=0.04)
    assert 0 < bound - entropy < 0.05


def test_steps_may_be_left_out():
    """A process with fewer, longer steps is bounded too, less tightly; on the times of its whole grid the bound is the same."""
    schedule, x = CosineSchedule(200), BYTES.repeat(4)[:, None]
    weights = byte_log_likelihood(BYTES, torch.tensor(MEAN).double(), torch.tensor(2 * math.log(STD)).double()).exp().repeat(4) / 4
    denoiser, bounds = GaussianDenoiser(schedule, MEAN, STD), {}
    for num_steps in (None, 200, 20):
        generator = torch.Generator().manual_seed(0)
        noise = lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)  # noqa: B023, E731
        times = None if num_steps is None else schedule.timesteps(num_steps)
        bounds[num_steps] = (weights * variational_bound(denoiser, x, None, "beta", noise, times)).sum().item()
    assert bounds[None] == bounds[200]
    assert bounds[20] > bounds[200] + 0.05


def test_clipping_brings_a_prediction_out_of_range_closer():
    schedule, x = LinearSchedule(20, 1e-3, 0.5), torch.ones(200, 1, dtype=torch.float64)
    noise = lambda like: seeded(0, *like.shape, dtype=like.dtype)  # noqa: E731
    plain = GaussianDenoiser(schedule, 1.5, 0.2)
    free, clipped = (variational_bound(d, x, None, "beta", noise).mean() for d in (plain, Thresholded(plain, Static())))
    assert clipped < free


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (EDMSchedule(), {}, "EDMSchedule is not one"),
        (SCHEDULES["linear"], {"num_terms": 0}, "need 1 <= num_terms <= 1000, the steps there are, got num_terms=0"),
        (SCHEDULES["linear"], {"num_terms": 1001}, "got num_terms=1001"),
        (SCHEDULES["linear"], {"times": torch.tensor([900, 1, 0])}, "need times that fall from 1000 to 0"),
        (SCHEDULES["linear"], {"times": torch.tensor([1000, 1])}, "need times that fall from 1000 to 0"),
        (SCHEDULES["linear"], {"variance": "learned"}, "this network has learned none"),
    ],
)
def test_what_has_no_bound_is_refused(schedule, arguments, message):
    settings = {"variance": "beta", "noise": torch.zeros_like} | arguments
    with pytest.raises(ValueError, match=message):
        variational_bound(GaussianDenoiser(schedule, MEAN, STD), torch.zeros(1, 1), None, **settings)
