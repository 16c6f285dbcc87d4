"""The variational bound, term by term, against integrals over densities, and as a whole against what is known of Gaussian data."""

import math
from itertools import pairwise

import pytest
import torch

from alphabar.diffusion.bound import bound_term, byte_log_likelihood, prior_term
from alphabar.diffusion.denoiser import Prediction
from alphabar.diffusion.likelihood import ranges_of_steps, variational_bound
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule, LaplaceSchedule, SigmoidSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.thresholdings import Static, Thresholded
from alphabar.diffusion.variances import log_bounds, log_variance
from oracle import GaussianDenoiser, seeded

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
MEAN, STD = 0.2, 0.3
BYTES = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def log_normal(z, mean, variance):
    return -0.5 * ((z - mean) ** 2 / variance + math.log(2 * math.pi * variance))


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
    (term,) = bound_term(schedule, prediction, *values[3:], torch.tensor([t]), torch.tensor([s]), variance)
    assert term.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_last_term_is_the_mass_on_the_grey_level():
    schedule = SCHEDULES["linear"]
    x = BYTES[[0, 1, 100, 254, 255], None]
    x_hat, x_t, t = x + 0.02, x + 0.01 * seeded(0, 5, 1, dtype=torch.float64), torch.ones(5, dtype=torch.long)
    terms = bound_term(schedule, Prediction(x_hat, x_t), x, x_t, t, t - 1, "beta")
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
    lower, upper = (value[:, 0].exp() for value in log_bounds(schedule, t, t - 1, torch.zeros(5, 1, dtype=torch.float64)))
    betas, sigma_squared = schedule.betas.double(), schedule.sigma.double() ** 2
    again = t.clamp(min=2)
    tilde = sigma_squared[again - 1] / sigma_squared[again] * betas[again - 1]
    torch.testing.assert_close(upper, betas[t - 1], rtol=2e-3, atol=0)  # betas from neighbours in float32 tables
    torch.testing.assert_close(lower, torch.minimum(tilde, betas[t - 1]), rtol=2e-3, atol=0)


def test_a_learned_fraction_goes_from_the_lower_bound_to_the_upper():
    schedule, t, like = SCHEDULES["cosine"], torch.tensor([1, 7, 900]), torch.zeros(3, 2)
    known = {kind: log_variance(schedule, kind, None, t, t - 1, like).expand(3, 2) for kind in ("posterior", "beta")}
    for fraction, kind in ((0.0, "posterior"), (1.0, "beta")):
        learned = log_variance(schedule, "learned", torch.full((3, 2), fraction), t, t - 1, like)
        torch.testing.assert_close(learned, known[kind])
    middle = log_variance(schedule, "learned", torch.full((3, 2), 0.5), t, t - 1, like)
    torch.testing.assert_close(middle, (known["posterior"] + known["beta"]) / 2)


def test_a_single_step_has_a_variance_that_is_not_nothing():
    """From T to 0 at once there is no step before whose variance could stand in for 0."""
    lower, upper = log_bounds(SCHEDULES["linear"], torch.tensor([1000]), torch.tensor([0]), torch.zeros(1, 1))
    assert lower.item() == upper.item() > -1


def test_gradients_are_finite_at_the_last_step_and_far_off():
    schedule = SCHEDULES["linear"]
    t = torch.tensor([1, 1, 2, 1000])
    x, x_hat = torch.tensor([[-1.0], [1.0], [0.2], [0.2]]), torch.tensor([[1.0], [3.0], [-5.0], [9.0]], requires_grad=True)
    fraction = torch.full((4, 1), 0.5, requires_grad=True)
    bound_term(schedule, Prediction(x_hat, x_hat, fraction), x, x, t, t - 1, "learned").sum().backward()
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

    It does not go down to nothing: the first noise, 0.014, still tells more of x than which grey level it is. The lower bound of the
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
        times = None if num_steps is None else schedule.grid(num_steps)
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
        (SCHEDULES["linear"], {"variance": "learned"}, "variance=learned: this network has learned none"),
    ],
)
def test_what_has_no_bound_is_refused(schedule, arguments, message):
    settings = {"variance": "beta", "noise": torch.zeros_like} | arguments
    with pytest.raises(ValueError, match=message):
        variational_bound(GaussianDenoiser(schedule, MEAN, STD), torch.zeros(1, 1), None, **settings)
