"""Timesteps, continuous schedules and thresholding."""

import math

import pytest
import torch
from torch import nn

from alphabar.diffusion.denoiser import Denoiser, NetworkDenoiser, Prediction
from alphabar.diffusion.parameterizations import Epsilon
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.schedules.continuous import ContinuousSchedule
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule, LaplaceSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.diffusion.thresholdings import Dynamic, Static, Thresholded
from alphabar.diffusion.timesteps import FromFile, Karras, LogSNR, Quadratic, Uniform
from oracle import seeded
from test_oracle import SCHEDULES

ENDS = {"sigma_min": 0.01, "sigma_max": 100.0}
TIMESTEPS = {"uniform": Uniform(), "quadratic": Quadratic(), "karras": Karras(**ENDS), "log_snr": LogSNR(**ENDS)}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
@pytest.mark.parametrize("num_steps", [1, 2, 20, 200, 1000])
@pytest.mark.parametrize("timesteps", TIMESTEPS.values(), ids=TIMESTEPS)
def test_timesteps_are_so_many_different_times_down_to_data(schedule, num_steps, timesteps):
    times = timesteps(schedule, num_steps)
    assert len(times) == num_steps + 1
    assert (times.diff() < 0).all()
    assert times[-1] == 0
    alpha, sigma = schedule(times)
    assert (alpha[-1], sigma[-1]) == (1, 0)
    assert times.dtype == (torch.int64 if schedule.is_discrete else torch.float64)


@every_schedule
def test_time_level_and_noise_are_inverses(schedule):
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    t = schedule.time(u)
    assert (t.diff() > 0).all()
    slack = 0.501 / 1000 if schedule.is_discrete else 1e-9
    torch.testing.assert_close(schedule.level(t).double(), u, rtol=0, atol=slack)
    alpha, sigma = schedule(t)
    back = schedule.time_of((sigma / alpha).double())
    torch.testing.assert_close(back.double(), t.double(), rtol=1e-9, atol=1e-9)


@every_schedule
def test_the_noise_range_is_that_of_the_first_and_the_last_time(schedule):
    low, high = schedule.noise_range()
    alpha, sigma = schedule(schedule.time(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    assert [low, high] == pytest.approx((sigma / alpha).tolist(), rel=1e-5)


def test_karras_steps_on_the_edm_schedule_are_its_own():
    """Karras et al. 2022, eq. 5, by hand."""
    n, rho, low, high = 18, 7, 0.002, 80.0
    expected = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    assert Uniform()(EDMSchedule(), n).tolist() == pytest.approx([*expected, 0.0])
    assert Karras()(EDMSchedule(), n).tolist() == pytest.approx([*expected, 0.0])


def test_log_snr_steps_are_even_in_log_snr():
    schedule = ShiftedCosineSchedule(64)
    alpha, sigma = schedule(LogSNR()(schedule, 10)[:-1])
    log_snr = 2 * (alpha / sigma).log()
    assert log_snr.tolist() == pytest.approx([-15 + 30 / 9 * i for i in range(10)], abs=1e-6)


def test_quadratic_steps_grow_with_the_square():
    assert Quadratic()(StraightSchedule(), 4).tolist() == pytest.approx([1, 9 / 16, 1 / 4, 1 / 16, 0])
    assert Quadratic()(LinearSchedule(), 4).tolist() == [1000, 562, 250, 62, 0]


def test_steps_that_would_fall_together_make_room():
    schedule = LinearSchedule(num_steps=10)
    assert schedule.snap(torch.tensor([9.9, 9.8, 9.7, 1.2, 1.1])).tolist() == [10, 9, 8, 2, 1, 0]
    assert schedule.snap(torch.tensor([10.0, 0.4, 0.3, 0.2])).tolist() == [10, 3, 2, 1, 0]
    assert schedule.snap(torch.full((10,), 5.0)).tolist() == list(range(10, -1, -1))
    with pytest.raises(ValueError, match="need 1 <= num_steps <= 10, the schedule's own, got num_steps=11"):
        schedule.snap(torch.linspace(10, 1, 11))


@pytest.mark.parametrize("timesteps", [Karras(), LogSNR()])
@pytest.mark.parametrize("schedule", [StraightSchedule(), LinearSchedule(zero_terminal_snr=True)])
def test_noise_without_an_end_needs_one_to_be_given(timesteps, schedule):
    with pytest.raises(ValueError, match=r"need 0 < sigma_min < sigma_max < inf, which for this schedule are"):
        timesteps(schedule, 10)


def test_timesteps_from_a_file(tmp_path):
    file = tmp_path / "timesteps.txt"
    file.write_text("# made by hand\n80\n5.0  # in the middle\n0.2\n0\n")
    timesteps = FromFile(str(file))
    assert timesteps(EDMSchedule(), None).tolist() == pytest.approx([80, 5, 0.2, 0])
    assert timesteps(EDMSchedule(), 3).tolist() == pytest.approx([80, 5, 0.2, 0])
    assert timesteps(EDMSchedule(), 5).tolist() == pytest.approx([80, 20, 5, 1, 0.2, 0])  # geometric means in between
    steps = timesteps(LinearSchedule(), 3)
    ratios = LinearSchedule().ratios()[steps[:-1] - 1]
    assert ratios.tolist() == pytest.approx([80, 5, 0.2], rel=0.02)


@pytest.mark.parametrize("content", ["", "1\n2\n", "5 one\n", "3\n-1\n", "inf\n1\n", "2\n2\n"])
def test_a_file_with_anything_else_is_refused(tmp_path, content):
    file = tmp_path / "timesteps.txt"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"timesteps: path=.*need (one number a line|falling numbers > 0)"):
        FromFile(str(file))(EDMSchedule(), None)


@pytest.mark.parametrize("schedule", [EDMSchedule(), StraightSchedule(), ShiftedCosineSchedule(64)])
def test_there_is_no_end_of_the_steps_of_continuous_time(schedule):
    with pytest.raises(ValueError, match="need num_steps >= 1 on a schedule with continuous time, got num_steps=None"):
        schedule.timesteps(None)


def test_the_shifted_cosine_adds_2_log_of_the_ratio_of_resolutions():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    log_snr = []
    for resolution in (64, 256):
        alpha, sigma = ShiftedCosineSchedule(resolution, base_resolution=64)(t)
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
        log_snr.append(2 * (alpha / sigma).log())
    torch.testing.assert_close(log_snr[0], -2 * torch.tan(math.pi * t / 2).log())
    torch.testing.assert_close(log_snr[1] - log_snr[0], torch.full_like(t, 2 * math.log(64 / 256)))


def test_laplace_has_the_log_snr_of_the_paper():
    schedule = LaplaceSchedule(num_steps=1000, mu=1.0, scale=0.5)
    alpha_bar = schedule.alpha_bar[[250, 500, 750]].double()
    log_snr = (alpha_bar / (1 - alpha_bar)).log()
    assert log_snr.tolist() == pytest.approx([1 - 0.5 * math.log(0.5), 1.0, 1 + 0.5 * math.log(0.5)], abs=1e-4)


def test_a_schedule_stays_exact_whatever_the_module_is_cast_to():
    schedule = nn.ModuleList([CosineSchedule(), EDMSchedule(), StraightSchedule()]).to(torch.bfloat16)
    assert schedule[0].alpha.dtype == torch.float32
    t = torch.tensor([0.123456], dtype=torch.float32)
    assert schedule[1](t)[1].dtype == schedule[2](t)[0].dtype == torch.float32


class Given(Denoiser):
    """A denoiser that returns the given prediction."""

    def __init__(self, schedule, x_hat):
        super().__init__()
        self.schedule = schedule
        self.x_hat = x_hat

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.schedule.at(t, x_t)
        return Prediction(self.x_hat, (x_t - alpha * self.x_hat) / sigma)


def test_dynamic_thresholding_moves_saturated_pixels_inwards():
    """Saharia et al. 2022: clipped to the quantile and divided by it; images within the range stay as they are."""
    x_hat = torch.stack([torch.linspace(-3, 3, 101), torch.linspace(-0.5, 0.5, 101)]).view(2, 1, 1, 101)
    out = Dynamic(quantile=0.9)(x_hat)
    r = x_hat[0].abs().quantile(0.9)
    torch.testing.assert_close(out[0], x_hat[0].clamp(-r, r) / r)
    assert torch.equal(out[1], x_hat[1])
    assert torch.equal(Static()(x_hat), x_hat.clamp(-1, 1))


@pytest.mark.parametrize("thresholding", [Static(), Dynamic()])
@pytest.mark.parametrize("schedule", [LinearSchedule(), EDMSchedule(), StraightSchedule()])
def test_a_thresholded_prediction_still_gives_x_t(thresholding, schedule):
    x_t, t = 3 * seeded(0, 3, 1, 4, 4), schedule.time(torch.tensor([0.2, 0.5, 0.8]))
    x_hat, eps_hat, _ = Thresholded(Given(schedule, 3 * seeded(1, 3, 1, 4, 4)), thresholding)(x_t, t)
    alpha, sigma = schedule.at(t, x_t)
    assert x_hat.abs().max() <= 1
    torch.testing.assert_close(alpha * x_hat + sigma * eps_hat, x_t, rtol=1e-4, atol=1e-4)


class Halves(nn.Module):
    """A network that says: no noise, and a variance at the given place between its bounds."""

    def __init__(self, fraction):
        super().__init__()
        self.fraction = fraction

    def forward(self, x, label, cond=None):
        return torch.cat([0.5 * x, torch.full_like(x, 2 * self.fraction - 1)], 1)


@pytest.mark.parametrize("num_steps", [10, 1000])
@pytest.mark.parametrize(("fraction", "same_as"), [(0.0, "posterior"), (1.0, "beta")])
def test_a_learned_variance_at_its_bounds_is_that_bound_over_any_subset_of_steps(num_steps, fraction, same_as):
    denoiser = NetworkDenoiser(Halves(fraction), LinearSchedule(), Epsilon())
    x_T = seeded(0, 4, 1, 4, 4)

    def draw(variance):
        generator = torch.Generator().manual_seed(0)
        noise = lambda like: torch.randn(like.shape, generator=generator)  # noqa: E731
        return DDPM(num_steps=num_steps, variance=variance).sample(denoiser, x_T, noise=noise)

    torch.testing.assert_close(draw("learned"), draw(same_as), rtol=1e-4, atol=1e-4 * draw(same_as).abs().max().item())


def test_other_samplers_leave_a_learned_variance_alone():
    """Regression of a bug elsewhere: DDIM failed on networks that learn the variance."""
    with_variance = NetworkDenoiser(Halves(0.3), LinearSchedule(), Epsilon())

    class Mean(nn.Module):
        def forward(self, x, label, cond=None):
            return 0.5 * x

    without = NetworkDenoiser(Mean(), LinearSchedule(), Epsilon())
    x_T = seeded(0, 4, 1, 4, 4)
    assert torch.equal(DDIM().sample(with_variance, x_T), DDIM().sample(without, x_T))


def test_a_variance_that_was_not_learned_is_refused():
    class Mean(nn.Module):
        def forward(self, x, label, cond=None):
            return 0.5 * x

    denoiser = NetworkDenoiser(Mean(), LinearSchedule(), Epsilon())
    with pytest.raises(ValueError, match="this network has learned none"):
        DDPM(num_steps=10, variance="learned").sample(denoiser, seeded(0, 2, 1, 4, 4))


@every_schedule
def test_the_rate_is_the_slope_of_log_snr_without_its_infinities(schedule):
    """alpha * sigma * -d log snr / d level, by differences of log snr; at the ends, where these are no use, still finite."""
    u = torch.linspace(0.1005, 0.9005, 9, dtype=torch.float64)  # in the middle of steps
    ends = schedule.time(torch.stack([u - 0.001, u + 0.001]))
    alpha, sigma = (scale.double() for scale in schedule(ends))
    change = -2 * (alpha / sigma).log().diff(dim=0)[0] / 0.002
    t = schedule.time(u)
    alpha, sigma = (scale.double() for scale in schedule(t))
    torch.testing.assert_close(schedule.log_snr_rate(t).double(), alpha * sigma * change, rtol=1e-3, atol=1e-4)
    ends = schedule.log_snr_rate(schedule.time(torch.tensor([0.0, 1.0])))
    assert ends.isfinite().all()
    assert (ends > 0).all()


class TwoFunctions(ContinuousSchedule):
    """The functions of another schedule, without its closed forms of what follows from them."""

    def __init__(self, schedule):
        super().__init__(schedule.first, schedule.last)
        self.schedule = schedule

    def alpha(self, t):
        return self.schedule.alpha(t)

    def sigma(self, t):
        return self.schedule.sigma(t)


@pytest.mark.parametrize("schedule", [StraightSchedule(), ShiftedCosineSchedule(128)])
def test_two_functions_give_what_closed_forms_give(schedule):
    derived, u = TwoFunctions(schedule), torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    t = schedule.time(u)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(derived.time(u), t)
    torch.testing.assert_close(derived.level(t), u)
    torch.testing.assert_close(derived.time_of(sigma / alpha), t)
    torch.testing.assert_close(derived.log_snr_rate(t), schedule.log_snr_rate(t))
    assert derived.noise_range() == schedule.noise_range()
    assert (derived.timesteps(7) - schedule.timesteps(7)).abs().max() < 1e-3
    assert derived.label(t).tolist() == schedule.label(t).tolist()


@pytest.mark.parametrize(("first", "last"), [(-0.1, 1.0), (1.0, 1.0), (0.0, math.inf)])
def test_a_schedule_needs_a_first_and_a_last_time(first, last):
    with pytest.raises(ValueError, match=f"need 0 <= first < last < inf, got first={first}, last={last}"):
        ContinuousSchedule.__init__(StraightSchedule(), first, last)


def test_the_rate_follows_the_shift_of_straight_paths_and_of_edm():
    for schedule in (StraightSchedule(3.0), EDMSchedule(), ShiftedCosineSchedule(256)):
        u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64).requires_grad_()
        alpha, sigma = schedule(schedule.time(u))
        log_snr = 2 * (alpha / sigma).log()
        (slope,) = torch.autograd.grad(-log_snr.sum(), u)
        torch.testing.assert_close(schedule.log_snr_rate(schedule.time(u)), alpha * sigma * slope)
    assert LinearSchedule(zero_terminal_snr=True).log_snr_rate(torch.arange(1, 1001)).isfinite().all()


@pytest.mark.parametrize("timesteps", [Karras, LogSNR])
@pytest.mark.parametrize("ends", [{"sigma_min": 0}, {"sigma_max": 0}, {"sigma_min": 0.0, "sigma_max": 80.0}, {"sigma_max": -1.0}])
def test_ends_that_are_no_noise_levels_are_refused(timesteps, ends):
    """0 is not null, which stands for the schedule's own."""
    with pytest.raises(ValueError, match=r"^need 0 < sigma_min < sigma_max, got sigma_min="):
        timesteps(**ends)
    assert timesteps(sigma_min=None, sigma_max=80.0).sigma_min is None
