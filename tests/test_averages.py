import math

import numpy as np
import pytest
import torch

from alphabar.errors import UserError
from alphabar.runs.ema.posthoc import MAX_ERROR, StoredAverage, reachable_lengths, reconstruct
from alphabar.runs.ema.profiles import MAX_LENGTH, Exponential, PowerFunction, fit, gamma_of, inner_products, sigma_rel_of

LENGTHS = [0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.25, 0.288]
STEPS = 1000


def follow(profile, weights):
    """The average after every step, by the recursion, from a start that must be forgotten."""
    average, averages = torch.full_like(weights[0], 1e6), []
    for n, newest in enumerate(weights, start=1):
        average = average + profile.weight(n) * (newest - average)
        averages.append(average)
    return torch.stack(averages)


def density(gamma, step, tau):
    """The profile as it is defined: (gamma + 1) tau^gamma / step^(gamma + 1) up to `step`."""
    return np.where(tau <= step, (gamma + 1) * (tau / step) ** gamma / step, 0)


def grid(step, num=420_000):
    """Midpoints and their spacing, up to `step`."""
    return (np.arange(num) + 0.5) * step / num, step / num


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def walks():
    """(Weights [1000, 200] that jitter about random walks that begin at 1, averages of them by length.)"""
    noise = torch.Generator().manual_seed(0)
    steps = torch.randn(2, STEPS, 200, generator=noise, dtype=torch.float64)
    weights = 1 + 0.003 * steps[0].cumsum(0) + 0.02 * steps[1]
    return weights, {length: follow(PowerFunction(length), weights) for length in LENGTHS}


def snapshots(walks, every, lengths=(0.05, 0.1)):
    steps = range(every, STEPS + 1, every)
    return [StoredAverage(step, length, {"w": walks[1][length][step - 1].float()}) for step in steps for length in lengths]


def miss(walks, weights, length, step=STEPS):
    """How far weights are from the true average, over how far this is from the live weights."""
    live, true = walks[0][step - 1], walks[1][length][step - 1]
    return float((weights - true).norm() / (live - true).norm())


@pytest.mark.parametrize("length", [1e-4, *LENGTHS, MAX_LENGTH])
def test_length_and_exponent_belong_to_each_other(length):
    gamma = gamma_of(length)
    assert sigma_rel_of(gamma) == pytest.approx(length, rel=1e-13)
    assert gamma == pytest.approx(max(np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real), rel=1e-9, abs=1e-9)


def test_exponents_are_those_of_the_paper():
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)
    assert gamma_of(MAX_LENGTH) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("length", [0, -0.1, 0.2887, 1, math.nan])
def test_a_length_beyond_the_plain_mean_is_refused(length):
    with pytest.raises(ValueError, match=r"^need 0 < length <= 0.28868, that of the plain mean, got "):
        PowerFunction(length)


def test_an_exponential_average_has_the_decay_that_it_had():
    profile = Exponential(0.9999)
    for n in (1, 7, 1000, 10**6):
        assert profile.weight(n) == 1 - min(0.9999, (1 + n) / (10 + n))


@pytest.mark.parametrize("length", [0.01, 0.05, 0.25])
@pytest.mark.parametrize("num_steps", [1, 2, 300])
def test_the_recursion_is_the_integral(length, num_steps):
    weights = torch.randn(num_steps, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tau, spacing = grid(num_steps)
    held = weights.numpy()[np.minimum(np.ceil(tau).astype(int), num_steps) - 1]  # theta(tau) between two steps is that of the later
    integral = (density(gamma_of(length), num_steps, tau)[:, None] * held).sum(0) * spacing
    np.testing.assert_allclose(follow(PowerFunction(length), weights)[-1].numpy(), integral, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [0.01, 0.1, MAX_LENGTH])
def test_the_recursion_has_its_closed_form(length):
    """Step k of t has the share (k / t)^(gamma + 1) - ((k - 1) / t)^(gamma + 1)."""
    weights = torch.randn(500, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shares = (torch.arange(501, dtype=torch.float64) / 500).pow(gamma_of(length) + 1).diff()
    torch.testing.assert_close(follow(PowerFunction(length), weights)[-1], shares @ weights, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.2])
def test_the_measured_width_of_the_profile_is_its_length(length):
    num = 3000
    shares = follow(PowerFunction(length), torch.eye(num, dtype=torch.float64))[-1]
    place = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    assert float(shares.sum()) == pytest.approx(1, rel=1e-10)
    mean = shares @ place
    assert float((shares @ (place - mean) ** 2).sqrt()) == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize(
    ("a", "b"), [((300, 0.05), (300, 0.1)), ((300, 0.1), (1000, 0.05)), ((1000, 0.2), (40, 0.288)), ((7, 0.1), (7, 0.1))]
)
def test_inner_products_are_those_of_numerical_integration(a, b):
    (step_a, length_a), (step_b, length_b) = a, b
    tau, spacing = grid(max(step_a, step_b))
    integral = (density(gamma_of(length_a), step_a, tau) * density(gamma_of(length_b), step_b, tau)).sum() * spacing
    product = inner_products(vector(step_a), vector(gamma_of(length_a)), vector(step_b), vector(gamma_of(length_b)))
    assert float(product) == pytest.approx(integral, rel=1e-5)


def test_the_error_of_a_fit_is_that_of_its_profile():
    steps, gammas = vector(100, 100, 250, 250, 400, 400), vector(*[gamma_of(0.05), gamma_of(0.1)] * 3)
    coefficients, errors = fit(steps, gammas, 400, vector(gamma_of(0.07), gamma_of(0.2)))
    tau, _ = grid(400)
    kept = np.stack([density(float(gamma), float(step), tau) for step, gamma in zip(steps, gammas, strict=True)])
    for index, length in enumerate((0.07, 0.2)):
        target = density(gamma_of(length), 400, tau)
        off = kept.T @ coefficients[:, index].numpy() - target
        assert float(errors[index]) == pytest.approx(math.sqrt((off**2).sum() / (target**2).sum()), rel=1e-4)
        assert float(coefficients[:, index].sum()) == pytest.approx(1, rel=1e-12)


def test_a_fit_is_the_best_among_those_whose_coefficients_sum_to_one():
    steps, gammas = vector(100, 100, 400, 400), vector(*[gamma_of(0.05), gamma_of(0.1)] * 2)
    target = vector(gamma_of(0.2))

    def square(coefficients):
        products = inner_products(steps[:, None], gammas[:, None], steps, gammas)
        return coefficients @ products @ coefficients - 2 * coefficients @ inner_products(steps, gammas, vector(400), target)

    best = fit(steps, gammas, 400, target).coefficients[:, 0]
    others = torch.randn(100, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert all(square(best) <= square(best + 0.01 * (other - other.mean())) for other in others)


@pytest.mark.parametrize("length", [0.05, 0.1])
def test_an_average_that_was_kept_comes_back(walks, length):
    kept = snapshots(walks, 50)
    assert torch.equal(reconstruct(kept, length, STEPS)["w"], walks[1][length][-1].float())
    steps, gammas = vector(*[one.step for one in kept]), vector(*[gamma_of(one.length) for one in kept])
    coefficients, errors = fit(steps, gammas, 500, vector(gamma_of(length)))
    wanted = vector(*[float((one.step, one.length) == (500, length)) for one in kept])
    torch.testing.assert_close(coefficients[:, 0], wanted, rtol=0, atol=1e-9)
    assert errors[0] < 1e-7


@pytest.mark.parametrize(
    ("length", "step", "largest"),
    [(0.02, 1000, 0.01), (0.03, 1000, 2e-3), (0.08, 1000, 1e-4), (0.15, 1000, 1e-4), (0.2, 1000, 1e-3), (0.25, 1000, 0.01),
     (0.03, 500, 0.01), (0.08, 500, 1e-3), (0.15, 500, 1e-3), (0.2, 500, 5e-3)],
)  # fmt: skip
def test_another_length_is_reconstructed_from_two(walks, length, step, largest):
    """0.05 and 0.1, every 25 steps."""
    assert miss(walks, reconstruct(snapshots(walks, 25), length, step)["w"], length, step) < largest


def test_snapshots_after_the_step_are_not_looked_at(walks):
    kept = snapshots(walks, 25)
    until = [one for one in kept if one.step <= 500]
    assert torch.equal(reconstruct(kept, 0.2, 500)["w"], reconstruct(until, 0.2, 500)["w"])


def test_a_sum_of_one_is_much_nearer_than_a_free_one(walks):
    kept = snapshots(walks, 100)
    steps, gammas = vector(*[one.step for one in kept]), vector(*[gamma_of(one.length) for one in kept])
    values = torch.stack([one.weights["w"].double() for one in kept])
    for length in (0.15, 0.2):
        target = vector(gamma_of(length))
        products = inner_products(steps[:, None], gammas[:, None], steps, gammas)
        free = torch.linalg.solve(products, inner_products(steps, gammas, vector(STEPS), target))
        bound = fit(steps, gammas, STEPS, target).coefficients[:, 0]
        assert miss(walks, bound @ values, length) < miss(walks, free @ values, length) / 5


@pytest.mark.parametrize("every", [25, 50, 100, 500])
def test_within_reach_a_length_is_near_the_average(walks, every):
    kept = snapshots(walks, every)
    steps, gammas = vector(*[one.step for one in kept]), vector(*[gamma_of(one.length) for one in kept])
    for length in LENGTHS:
        error = float(fit(steps, gammas, STEPS, vector(gamma_of(length))).errors[0])
        if error <= MAX_ERROR:
            assert miss(walks, reconstruct(kept, length, STEPS)["w"], length) < 0.05
        else:
            with pytest.raises(UserError, match=rf"^ema_length={length}: need a length within reach of the {len(kept)} averages"):
                reconstruct(kept, length, STEPS)


def test_lengths_within_reach_are_printed_as_ranges():
    few = vector(1000, 1000), vector(gamma_of(0.05), gamma_of(0.1))
    assert reachable_lengths(*few, 1000, {0.05, 0.1}) == ["0.043 to 0.068", "0.077 to 0.112"]
    assert reachable_lengths(*few, 2000, {0.05, 0.1}) == []
    many = torch.arange(50, 1001, 50).repeat(2), vector(*[gamma_of(0.05)] * 20, *[gamma_of(0.1)] * 20)
    (reach,) = reachable_lengths(*many, 1000, {0.05, 0.1})
    low, high = map(float, reach.split(" to "))
    assert low < 0.03
    assert high > 0.23


def test_without_any_average_nothing_is_within_reach():
    with pytest.raises(UserError, match=r"^ema_length=0.1: no averages were kept up to step 9$"):
        reconstruct([StoredAverage(10, 0.05, {})], 0.1, 9)
