import re

import pytest
import torch

import parts
import toy
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.parameterizations import V
from alphabar.diffusion.schedules.continuous import ContinuousSchedule
from alphabar.diffusion.schedules.discrete import DiscreteSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule, SigmoidSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule, ScaledLinearSchedule
from alphabar.diffusion.schedules.validation import check_schedule
from oracle import seeded

SCHEDULES = {
    "linear": LinearSchedule,
    "scaled_linear": ScaledLinearSchedule,
    "cosine": CosineSchedule,
    "sigmoid": SigmoidSchedule,
}
every_schedule = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)


@pytest.mark.parametrize("schedule", parts.schedules().values(), ids=parts.choices("schedule"))
def test_every_schedule_goes_from_data_to_noise(schedule):
    """Whatever conf/schedule offers: alpha falls from 1, sigma rises from 0, and their ratio is another at each time."""
    times = schedule.time(torch.linspace(0, 1, 1001, dtype=torch.float64)).unique()
    alpha, sigma = schedule(torch.cat([times.new_zeros(1), times]))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= 0).all()
    ratio = sigma.double() / alpha.double()
    assert (ratio[1:].diff() > 0).all()
    assert len(times) >= 100
    check_schedule(schedule)


class Own(ContinuousSchedule):
    def __init__(self, alpha, sigma):
        super().__init__()
        self.alpha, self.sigma = alpha, sigma

    alpha = sigma = None  # no longer abstract


COS, SIN = (lambda t: torch.cos(torch.pi / 2 * t)), (lambda t: torch.sin(torch.pi / 2 * t))


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        (lambda t: COS(t)[:, None, None, None], SIN, "[B] for t [B]; here t is float64 [65], alpha(t) float64 [65, 1, 1, 1] and"),
        (COS, lambda t: SIN(t).mean(), "alpha(t) float64 [65] and sigma(t) float64 []"),
        (lambda t: 1.0, SIN, "alpha(t) float and"),
        (COS, lambda t: SIN(t).half(), "sigma(t) float16 [65]"),
        (SIN, COS, "sigma(0) = 0, as time runs from data to noise, got alpha(0) = 0, sigma(0) = 1"),
        (lambda t: 2 * COS(t), SIN, "got alpha(0) = 2, sigma(0) = 0"),
        (lambda t: COS(2 * t), SIN, "finite and >= 0, got alpha(0.5156) = -0.04907"),
        (COS, lambda t: t / (1 - t), "finite and >= 0, got alpha(1) = 6.123e-17, sigma(1) = inf"),
        (COS, lambda t: 1e300 * t, "finite and >= 0, got alpha(0.01562) = 0.9997, sigma(0.01562) = 1.563e+298"),
        (lambda t: COS(3 * t).abs(), lambda t: SIN(3 * t).abs(), "that rises with t, got alpha(0.3281) = 0.02454"),
        (torch.ones_like, torch.zeros_like, "that rises with t, got alpha(0) = 1, sigma(0) = 0, alpha(0.01562) = 1"),
    ],
)  # fmt: skip
def test_a_schedule_that_is_none_is_refused(alpha, sigma, message):
    with pytest.raises(ValueError, match=f"^schedule: Own: need .*{re.escape(message)}"):
        NetworkDenoiser(toy.network(), Own(alpha, sigma), V())


@every_schedule
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_betas_alpha_bar_and_snr_are_monotone(make, zero_terminal_snr):
    schedule = make(zero_terminal_snr=zero_terminal_snr)
    alpha, sigma = schedule(torch.arange(1001))
    assert schedule.betas.shape == (1000,)
    assert schedule.betas.dtype == schedule.alpha_bar.dtype == torch.float32
    assert (schedule.betas[:-1].diff() >= 0).all()
    assert (schedule.alpha_bar.diff() < 0).all()
    assert ((alpha / sigma)[1:].diff() < 0).all()
    assert schedule.alpha_bar[0] == 1
    assert (schedule.alpha_bar[-1] == 0) == zero_terminal_snr


@every_schedule
def test_scales_preserve_variance_and_follow_from_the_betas(make):
    schedule = make()
    alpha, sigma = schedule(torch.arange(1001))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1001))
    product = torch.cumprod(1 - schedule.betas.double(), 0)
    torch.testing.assert_close(schedule.alpha_bar[1:].double(), product, rtol=2e-4, atol=1e-9)


def test_linear_betas_are_those_of_ho_et_al():
    schedule = LinearSchedule()
    assert schedule.betas[0].item() == pytest.approx(1e-4)
    assert schedule.betas[-1].item() == pytest.approx(0.02)
    assert schedule.alpha_bar[1000].item() == pytest.approx(4.0358e-5, rel=1e-4)


def test_cosine_alpha_bar_at_half_time():
    # cos^2(pi/2 * 0.508/1.008) / cos^2(pi/2 * 0.008/1.008)
    assert CosineSchedule().alpha_bar[500].item() == pytest.approx(0.49384, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "ours", "theirs"),
    [
        (LinearSchedule, {}, {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
        (ScaledLinearSchedule, {}, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (CosineSchedule, {}, {"beta_schedule": "squaredcos_cap_v2"}),
        (
            ScaledLinearSchedule,
            {"zero_terminal_snr": True},
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True},
        ),
    ],
    ids=["linear", "scaled_linear", "cosine", "zero_terminal_snr"],
)
def test_alpha_bar_equals_that_of_diffusers(make, ours, theirs):
    from diffusers import DDIMScheduler

    expected = DDIMScheduler(num_train_timesteps=1000, **theirs).alphas_cumprod
    torch.testing.assert_close(make(**ours).alpha_bar[1:], expected, rtol=2e-4, atol=2e-7)


@every_schedule
def test_q_sample_equals_the_chain_step_by_step(make):
    """Mean and variance of x_t, from q(x_t | x_{t-1}) = N(sqrt(1 - beta) x_{t-1}, beta), for x = 3."""
    schedule = make(num_steps=50)
    mean, variance = torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for step, beta in enumerate(schedule.betas.double(), start=1):
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        t = torch.tensor([step])
        x = torch.full((1, 1), 3.0)
        at_zero = schedule.q_sample(x, t, torch.zeros(1, 1))
        at_one = schedule.q_sample(x, t, torch.ones(1, 1))
        assert at_zero.item() == pytest.approx(mean.item(), abs=1e-5)
        assert (at_one - at_zero).item() ** 2 == pytest.approx(variance.item(), abs=1e-5)


@every_schedule
@pytest.mark.parametrize(("t", "s"), [(1, 0), (2, 1), (30, 29), (50, 49), (40, 10)])
def test_posterior_equals_bayes_computed_numerically(make, t, s):
    """q(x_s | x_t, x) on a fine grid of x_s: likelihood q(x_t | x_s) times prior q(x_s | x), normalised."""
    schedule = make(num_steps=50)
    x, x_t = 0.7, -0.4
    alpha, sigma = (table.double() for table in schedule(torch.arange(51)))
    mean, variance = schedule.q_posterior(*(torch.tensor([[v]]) for v in (x, x_t)), torch.tensor([t]), torch.tensor([s]))
    if s == 0:
        assert mean.item() == pytest.approx(x, abs=1e-6)
        assert variance.item() == 0
        return
    alpha_ts = alpha[t] / alpha[s]
    var_ts = sigma[t] ** 2 - alpha_ts**2 * sigma[s] ** 2
    grid = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    log_density = -((x_t - alpha_ts * grid) ** 2) / (2 * var_ts) - (grid - alpha[s] * x) ** 2 / (2 * sigma[s] ** 2)
    density = torch.softmax(log_density, 0)
    expected_mean = (density * grid).sum()
    expected_variance = (density * (grid - expected_mean) ** 2).sum()
    assert mean.item() == pytest.approx(expected_mean.item(), rel=1e-3, abs=1e-4)
    assert variance.item() == pytest.approx(expected_variance.item(), rel=2e-3)


def test_one_step_of_the_chain_has_the_variance_beta():
    schedule = LinearSchedule()
    t = torch.arange(2, 1001)
    alpha_ts, var_ts = schedule.q_transition(t, t - 1, torch.zeros(999))
    torch.testing.assert_close(var_ts, schedule.betas[1:], rtol=2e-3, atol=0)
    torch.testing.assert_close(alpha_ts, (1 - schedule.betas[1:]).sqrt())


@every_schedule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_buffers_stay_float32_whatever_the_module_is_cast_to(make, dtype):
    schedule, cast = make(), make().to(dtype)
    for name, buffer in schedule.named_buffers():
        assert cast.get_buffer(name).dtype == torch.float32
        assert torch.equal(cast.get_buffer(name), buffer)


def test_times_are_uniform_over_the_steps_and_labels_start_at_zero():
    schedule = LinearSchedule(num_steps=10)
    t = schedule.time(torch.linspace(0, 1, 100_001))
    assert t.min() == 1
    assert t.max() == 10
    assert t.bincount()[1:].float().div(100_001).sub(0.1).abs().max() < 1e-4
    assert schedule.label(torch.tensor([1, 10])).tolist() == [0, 9]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50, 999, 1000, None])
def test_timesteps_fall_from_the_last_step_to_zero(num_steps):
    times = LinearSchedule().timesteps(num_steps)
    assert len(times) == (num_steps or 1000) + 1
    assert times[0] == 1000
    assert times[-1] == 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (LinearSchedule, {"beta_end": 1.5}, "need 0 < beta_start < beta_end < 1, got beta_start=0.0001, beta_end=1.5"),
        (LinearSchedule, {"beta_start": 0.5}, "got beta_start=0.5, beta_end=0.02"),
        (LinearSchedule, {"beta_start": 0.0}, "got beta_start=0.0"),
        (ScaledLinearSchedule, {"num_steps": 0}, "need num_steps >= 1, got num_steps=0"),
        (CosineSchedule, {"num_steps": -5}, "got num_steps=-5"),
        (CosineSchedule, {"offset": -1.0}, "need offset >= 0"),
        (CosineSchedule, {"max_beta": 1.0}, "need 0 < max_beta < 1"),
        (SigmoidSchedule, {"start": 3.0}, "need start < end"),
        (SigmoidSchedule, {"temperature": 0.0}, "need temperature > 0"),
        (LinearSchedule, {"num_steps": 1, "zero_terminal_snr": True}, "need num_steps >= 2"),
        (DiscreteSchedule, {"betas": [0.1]}, "need betas as a tensor [T], one number for each step, got list"),
        (DiscreteSchedule, {"betas": torch.full((3, 1), 0.1)}, "got float32 [3, 1]"),
    ],
)
def test_what_makes_no_schedule_is_refused(make, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**arguments)


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_more_timesteps_than_there_are_is_refused(num_steps):
    with pytest.raises(ValueError, match=rf"need 1 <= num_steps <= 1000.*got num_steps={num_steps}"):
        LinearSchedule().timesteps(num_steps)


def test_q_sample_broadcasts_over_any_rank():
    schedule = LinearSchedule()
    for shape in [(4,), (4, 3), (4, 3, 8, 8), (4, 2, 3, 8, 8)]:
        x, eps = seeded(0, *shape), seeded(1, *shape)
        t = torch.tensor([1, 10, 500, 1000])
        x_t = schedule.q_sample(x, t, eps)
        for row in range(4):
            alone = schedule.q_sample(x[row : row + 1], t[row : row + 1], eps[row : row + 1])
            assert torch.equal(x_t[row : row + 1], alone)
