"""The terms of the variational bound against integrals over densities."""

import math

import pytest
import torch

from alphabar.diffusion.bound import bound_term, byte_log_likelihood, prior_term
from alphabar.diffusion.denoiser import Prediction
from alphabar.diffusion.schedules import NoisedBatch
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule, LaplaceSchedule, SigmoidSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.variances import log_bounds, log_variance
from oracle import BYTES, log_normal, seeded

SCHEDULES = {
    "linear": LinearSchedule(),
    "linear-zero-snr": LinearSchedule(zero_terminal_snr=True),
    "cosine": CosineSchedule(),
    "sigmoid": SigmoidSchedule(),
    "laplace": LaplaceSchedule(),
}
SHORT = LinearSchedule(20, 1e-3, 0.05)  # alpha_T is 0.77: much is left to the prior term
STEPS = [(2, 1), (3, 2), (500, 499), (1000, 999), (10, 1), (500, 300), (1000, 900)]
VARIANCES = ["posterior", "beta", "learned"]
FRACTION = 0.3


def bounds(schedule, t, s, like):
    return log_bounds(schedule, schedule.scales(t), schedule.scales(s), like)


def scales(schedule, *times):
    return [tuple(map(float, schedule(torch.tensor(t)))) for t in times]


def moments_by_bayes(schedule, x, x_t, t, s):
    """Grid, log density, mean and variance of q(x_s | x_t, x), which is q(x_t | x_s) q(x_s | x) up to a factor."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(schedule, t, s)
    alpha_ts = alpha_t / alpha_s
    var_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
    coarse = alpha_s * x + sigma_s * torch.linspace(-14, 14, 200_001, dtype=torch.float64)

    def log_density(z):
        unscaled = log_normal(x_t, alpha_ts * z, var_ts) + log_normal(z, alpha_s * x, sigma_s**2)
        return unscaled - (torch.logsumexp(unscaled, 0) + math.log(z[1] - z[0]))

    density = log_density(coarse).exp() * (coarse[1] - coarse[0])
    mean = float((density * coarse).sum())
    std = float((density * (coarse - mean) ** 2).sum().sqrt())
    grid = mean + std * torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    return grid, log_density(grid), mean, std**2, var_ts


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize(("t", "s"), STEPS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_term_is_the_divergence_of_two_densities(schedule, t, s, variance):
    """KL(q(x_s | x_t, x) || p(x_s | x_t)) as an integral; p has the mean of q with x_hat for x. Steps may leave others out."""
    x, x_hat, off = 0.4, 0.35, 0.7
    ((alpha_t, sigma_t),) = scales(schedule, t)
    x_t = alpha_t * x + sigma_t * off
    grid, log_q, _, lower, upper = moments_by_bayes(schedule, x, x_t, t, s)
    _, _, mean, *_ = moments_by_bayes(schedule, x_hat, x_t, t, s)
    log_var = {
        "posterior": math.log(lower),
        "beta": math.log(upper),
        "learned": (1 - FRACTION) * math.log(lower) + FRACTION * math.log(upper),
    }[variance]
    step = float(grid[1] - grid[0])
    expected = float((log_q.exp() * (log_q - log_normal(grid, mean, math.exp(log_var)))).sum()) * step
    values = [torch.full((1, 1), value, dtype=torch.float64) for value in (x_hat, 0.0, FRACTION, x, x_t)]
    prediction = Prediction(*values[:3])
    batch = NoisedBatch(values[3], torch.full((1, 1), off), schedule.scales(torch.tensor([t])), values[4])
    (term,) = bound_term(schedule, prediction, batch, torch.tensor([s]), variance)
    assert term.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_last_term_is_the_mass_on_the_grey_level():
    schedule = SCHEDULES["linear"]
    x = BYTES[[0, 1, 100, 254, 255], None]
    x_hat, x_t, t = x + 0.02, x + 0.01 * seeded(0, 5, 1, dtype=torch.float64), torch.ones(5, dtype=torch.long)
    terms = bound_term(schedule, Prediction(x_hat, x_t), NoisedBatch(x, x_t, schedule.scales(t), x_t), t - 1, "beta")
    ((_, sigma),) = scales(schedule, 1)
    # At s = 0 the mean of q(x_0 | x_1, x) is x itself, so that of p is x_hat; the variance is that of the first step.
    expected = [-math.log(mass(value, value + 0.02, sigma**2)) for value in x[:, 0].tolist()]
    assert terms.tolist() == pytest.approx(expected, rel=1e-4)


def mass(x, mean, variance):
    """What N(mean, variance) puts on the grey level of x, as an integral over the density."""
    low = -math.inf if x < -0.999 else x - 1 / 255
    high = math.inf if x > 0.999 else x + 1 / 255
    std = math.sqrt(variance)
    # Where there is any mass worth it: forty standard deviations beyond the nearer end.
    low, high = max(low, min(mean, high) - 40 * std), min(high, max(mean, low) + 40 * std)
    z = torch.linspace(low, high, 400_001, dtype=torch.float64)
    density = (-0.5 * (z - mean) ** 2 / variance).exp() / math.sqrt(2 * math.pi * variance)
    return float(torch.trapezoid(density, z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("std", [0.003, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("level", [0, 1, 77, 128, 254, 255])
def test_the_mass_on_a_grey_level_equals_its_integral(level, std, dtype):
    """In the tails, too: up to six standard deviations away on both sides, where 1 - P has no digits left in float32."""
    x = BYTES[level]
    for away in (-6, -3, -0.2, 0, 1.5, 4, 6):
        mean = float(x) + away * std
        expected = mass(float(x), mean, std**2)
        got = byte_log_likelihood(x.to(dtype), torch.tensor(mean, dtype=dtype), torch.tensor(2 * math.log(std), dtype=dtype))
        assert got.item() == pytest.approx(math.log(max(expected, 1e-12)), abs=2e-4 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize("mean", [-1.3, -0.2, 0.999])
@pytest.mark.parametrize("std", [0.004, 0.05, 0.6])
def test_all_grey_levels_together_have_mass_one(mean, std):
    log_var = torch.tensor(2 * math.log(std), dtype=torch.float64)
    total = byte_log_likelihood(BYTES, torch.tensor(mean, dtype=torch.float64), log_var).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_bounds_of_the_variance_are_those_of_the_paper(schedule):
    """Nichol & Dhariwal 2021, sec. 3.1: beta_tilde_t, with that of t = 2 for t = 1, and beta_t."""
    t = torch.tensor([1, 2, 3, 500, 1000])
    lower, upper = (value[:, 0].exp() for value in bounds(schedule, t, t - 1, torch.zeros(5, 1, dtype=torch.float64)))
    betas, sigma_squared = schedule.betas.double(), schedule.sigma.double() ** 2
    again = t.clamp(min=2)
    tilde = sigma_squared[again - 1] / sigma_squared[again] * betas[again - 1]
    torch.testing.assert_close(upper, betas[t - 1], rtol=2e-3, atol=0)  # betas from neighbours in float32 tables
    torch.testing.assert_close(lower, torch.minimum(tilde, betas[t - 1]), rtol=2e-3, atol=0)


def test_a_learned_fraction_goes_from_the_lower_bound_to_the_upper():
    schedule, like = SCHEDULES["cosine"], torch.zeros(3, 2)
    at_t, at_s = schedule.scales(torch.tensor([1, 7, 900])), schedule.scales(torch.tensor([0, 6, 899]))
    known = {kind: log_variance(schedule, kind, None, at_t, at_s, like).expand(3, 2) for kind in ("posterior", "beta")}
    for fraction, kind in ((0.0, "posterior"), (1.0, "beta")):
        learned = log_variance(schedule, "learned", torch.full((3, 2), fraction), at_t, at_s, like)
        torch.testing.assert_close(learned, known[kind])
    middle = log_variance(schedule, "learned", torch.full((3, 2), 0.5), at_t, at_s, like)
    torch.testing.assert_close(middle, (known["posterior"] + known["beta"]) / 2)


def test_a_single_step_has_a_variance_that_is_not_nothing():
    """From T to 0 at once there is no step before whose variance could stand in for 0."""
    lower, upper = bounds(SCHEDULES["linear"], torch.tensor([1000]), torch.tensor([0]), torch.zeros(1, 1))
    assert lower.item() == upper.item() > -1


def test_gradients_are_finite_at_the_last_step_and_far_off():
    schedule = SCHEDULES["linear"]
    t = torch.tensor([1, 1, 2, 1000])
    x, x_hat = torch.tensor([[-1.0], [1.0], [0.2], [0.2]]), torch.tensor([[1.0], [3.0], [-5.0], [9.0]], requires_grad=True)
    fraction = torch.full((4, 1), 0.5, requires_grad=True)
    batch = NoisedBatch(x, x, schedule.scales(t), x)
    bound_term(schedule, Prediction(x_hat, x_hat, fraction), batch, t - 1, "learned").sum().backward()
    assert x_hat.grad is not None
    assert fraction.grad is not None
    assert x_hat.grad.isfinite().all()
    assert fraction.grad.isfinite().all()


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), EDMSchedule(), SHORT], ids=[*SCHEDULES, "edm", "short"])
def test_the_prior_term_is_the_divergence_of_two_densities(schedule):
    x = 0.6
    alpha, sigma = (float(value) for value in schedule(schedule.time(torch.ones(()))))
    z = alpha * x + sigma * torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_q, log_p = log_normal(z, alpha * x, sigma**2), log_normal(z, 0, alpha**2 + sigma**2)
    expected = float(torch.trapezoid(log_q.exp() * (log_q - log_p), z))
    (term,) = prior_term(schedule, torch.full((1, 3), x, dtype=torch.float64))
    assert term.item() == pytest.approx(expected, rel=1e-4, abs=1e-8)
