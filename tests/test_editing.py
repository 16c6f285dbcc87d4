"""Inversion, interpolation, image-to-image and inpainting, where the answers are known."""

import math
from dataclasses import dataclass

import pytest
import torch

from alphabar.diffusion.denoiser import Denoiser, Prediction
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.samplers.image_to_image import image_to_image, times_below
from alphabar.diffusion.samplers.inpainting import RePaint
from alphabar.diffusion.samplers.interpolation import slerp
from alphabar.diffusion.samplers.inversion import encode
from alphabar.diffusion.samplers.unipc import UniPC
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.diffusion.thresholdings import Static
from oracle import GaussianDenoiser, MixtureDenoiser, seeded

SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule(), "straight": StraightSchedule(), "edm": EDMSchedule()}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)

PAIR = torch.tensor([[[0.3, 0.7], [0.5, 0.5]], [[-0.6, 0.5], [-0.2, 0.8]], [[0.1, 0.2], [0.15, 0.1]]])
MODES = [torch.tensor([values], dtype=torch.float64) for values in ([0.3, 0.7], [-0.6, 0.5], [0.3, 0.3])]


def there_and_back(sampler, denoiser, x):
    return (sampler.sample(denoiser, encode(sampler, denoiser, x)) - x).abs().max().item()


@every_schedule
@pytest.mark.parametrize("solver", [DDIM, Euler, Heun])
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_what_is_encoded_comes_back_the_better_the_more_steps(schedule, solver, data):
    denoiser = GaussianDenoiser(schedule, 0.3, 0.5) if data == "gaussian" else MixtureDenoiser(schedule, *MODES)
    x = (0.3 + 0.3 * seeded(0, 64, 1, dtype=torch.float64)).clamp(-1, 1)
    few, many = (there_and_back(solver(num_steps=num), denoiser, x) for num in (25, 200))
    assert many < 0.05
    assert many < few / (2 if solver is not Heun else 4)


@every_schedule
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_the_way_there_and_back_has_the_order_of_its_solver(schedule, data):
    """Seen: 0.7 to 1 for DDIM, 2.6 to 3.1 for Heun, whose errors up and down cancel in part; 1 if Heun began with x_t = x."""
    if data == "gaussian":
        denoiser, x = GaussianDenoiser(schedule, 0.3, 0.5), 0.3 + 0.5 * seeded(0, 200, 2, dtype=torch.float64)
    else:
        denoiser = MixtureDenoiser(schedule, *PAIR)
        x = denoiser.draw(200, torch.Generator().manual_seed(0)).double()
    for solver, order, largest in ((DDIM, 0.6, 0.03), (Heun, 2, 4e-4)):
        samplers = [solver(num_steps=num) for num in (100, 200)]
        coarse, fine = ((sampler.sample(denoiser, encode(sampler, denoiser, x)) - x).square().mean().sqrt() for sampler in samplers)
        assert fine < largest
        assert math.log2(coarse / fine) > order


@every_schedule
def test_the_latents_of_two_modes_are_normal_numbers(schedule):
    denoiser = MixtureDenoiser(schedule, *PAIR)
    x = denoiser.draw(5000, torch.Generator().manual_seed(0)).double()
    sampler = Heun(num_steps=100)
    eps = encode(sampler, denoiser, x) / sampler.start(schedule, torch.ones_like(x))
    assert eps.mean().item() == pytest.approx(0, abs=0.03)
    assert eps.std().item() == pytest.approx(1, abs=0.03)
    assert eps.pow(4).mean().item() == pytest.approx(3, abs=0.3)  # 1.5 of the data, standardised


def test_nothing_is_clipped_on_the_way_up():
    denoiser, x = GaussianDenoiser(StraightSchedule(), 0.3, 0.5), torch.tensor([[1.7], [-1.2]])
    assert torch.equal(encode(DDIM(thresholding=Static()), denoiser, x), encode(DDIM(), denoiser, x))


@pytest.mark.parametrize("sampler", [DDIM(), Euler(), Heun()], ids=lambda sampler: type(sampler).__name__)
def test_samplers_that_can_run_upwards_draw_and_remember_nothing(sampler):
    run = sampler.begin(
        GaussianDenoiser(StraightSchedule(), 0.3, 0.5), None, lambda like: pytest.fail("noise was drawn"), torch.tensor([0.8, 0.9])
    )
    sampler.step(run, seeded(0, 3, 1), torch.full((3,), 0.8), torch.full((3,), 0.9))
    assert run.memory == []


@pytest.mark.parametrize("schedule", [SCHEDULES["straight"], SCHEDULES["edm"]], ids=["straight", "edm"])
def test_the_latents_of_gaussian_data_are_normal_numbers(schedule):
    """The ODE keeps quantiles: x = mean + std * z is led to sigma_T * z (and what is left of the mean)."""
    z = seeded(0, 256, 1, dtype=torch.float64)
    x_T = encode(Heun(num_steps=200), GaussianDenoiser(schedule, 0.3, 0.5), 0.3 + 0.5 * z)
    _, sigma = schedule(schedule.time(torch.ones((), dtype=torch.float64)))
    torch.testing.assert_close(x_T / sigma, z, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "sampler",
    [DDPM(), DDIM(eta=0.5), Euler(churn=1.0), Heun(churn=1.0), DPMpp2M(), DPMpp2M(eta=1.0), UniPC()],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samplers_that_cannot_run_upwards_are_refused(sampler):
    with pytest.raises(ValueError, match="ddim with eta=0, euler and heun with churn=0 can"):
        encode(sampler, GaussianDenoiser(StraightSchedule(), 0.3, 0.5), torch.zeros(2, 1))


def test_slerp_keeps_the_length_and_turns_evenly():
    start, end = torch.tensor([[3.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 3.0], [1.0, math.sqrt(3)]])
    for weight in (0.0, 0.25, 0.5, 1.0):
        point = slerp(start, end, weight)
        torch.testing.assert_close(point.norm(dim=1), torch.tensor([3.0, 2.0]))
        angle = torch.atan2(point[:, 1], point[:, 0])
        torch.testing.assert_close(angle, weight * torch.tensor([math.pi / 2, math.pi / 3]), rtol=1e-5, atol=1e-6)


def test_slerp_of_parallel_and_opposite_vectors_is_a_straight_line():
    start = seeded(0, 2, 4)
    end = torch.stack([2 * start[0], -start[1]])
    torch.testing.assert_close(slerp(start, end, 0.25), torch.lerp(start, end, 0.25))


@pytest.mark.parametrize("change", [1e-12, 1e-7, 1e-4])
def test_slerp_of_nearly_parallel_vectors_is_precise(change):
    start = seeded(0, 2, 50, dtype=torch.float64)
    end = 1.5 * start + change * seeded(1, 2, 50, dtype=torch.float64)
    torch.testing.assert_close(slerp(start, end, 0.3), torch.lerp(start, end, 0.3), rtol=0, atol=1e-7)


def test_slerp_treats_each_image_by_itself_over_all_its_dimensions():
    start, end = seeded(0, 4, 3, 5, 5), 2 * seeded(1, 4, 3, 5, 5)
    flat = slerp(start.flatten(1), end.flatten(1), 0.3)
    torch.testing.assert_close(slerp(start, end, 0.3).flatten(1), flat)
    torch.testing.assert_close(slerp(start[2:3], end[2:3], 0.3), slerp(start, end, 0.3)[2:3])
    assert slerp(start, torch.zeros_like(start), 0.3).isfinite().all()


@every_schedule
def test_image_to_image_is_noise_and_the_ode_from_there(schedule):
    denoiser, x, eps = GaussianDenoiser(schedule, 0.3, 0.5), *(seeded(seed, 200, 2, dtype=torch.float64) for seed in (0, 1))
    sampler = Heun(num_steps=100)
    t = times_below(sampler, schedule, 0.6)[:1].expand(200)
    exact = denoiser.exact(schedule.q_sample(x, t, eps), t, torch.zeros_like(t))
    assert (image_to_image(sampler, denoiser, x, 0.6, noise=lambda like: eps) - exact).abs().max() < 0.03


@every_schedule
@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_image_to_image_starts_at_the_level_that_was_asked_for(schedule, strength):
    times = times_below(DDIM(num_steps=50), schedule, strength)
    assert schedule.level(times[:1]).item() == pytest.approx(strength, abs=0.02)
    assert times[-1] == 0
    torch.manual_seed(0)
    x = torch.full((4000, 1), 0.9)
    out = image_to_image(Heun(num_steps=50), GaussianDenoiser(schedule, 0.0, 0.3), x, strength)
    if strength == 1.0:  # nothing is left of x: new draws of N(0, 0.3^2)
        assert out.mean().item() == pytest.approx(0, abs=0.03)
        assert out.std().item() == pytest.approx(0.3, abs=0.03)


@every_schedule
@pytest.mark.parametrize("num_steps", [1, 4])
def test_different_strengths_start_at_different_levels_however_few_the_steps(schedule, num_steps):
    """Regression: they were moved to the sampler's grid, where several fell together."""
    strengths = [0.2, 0.4, 0.45, 0.6, 0.8, 1.0]
    ways = [times_below(DDIM(num_steps=num_steps), schedule, strength) for strength in strengths]
    assert [schedule.level(times[:1]).item() for times in ways] == pytest.approx(strengths, abs=1e-3)
    for times in ways:
        assert times[-1] == 0
        assert (times.diff() < 0).all()
        assert len(times) <= num_steps + 1
        assert set(times[1:].tolist()) <= set(DDIM(num_steps=num_steps).times(schedule).tolist())


def test_the_less_strength_the_nearer_the_result():
    torch.manual_seed(0)
    x = torch.full((500, 1), 0.9)
    denoiser = GaussianDenoiser(StraightSchedule(), 0.0, 0.5)
    strengths = (0.1, 0.3, 0.6, 0.9)
    off = [(image_to_image(DDIM(), denoiser, x, strength) - x).square().mean().item() for strength in strengths]
    assert off == sorted(off)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, float("nan")])
def test_a_level_outside_the_schedule_is_refused(strength):
    with pytest.raises(ValueError, match=rf"need 0 < strength <= 1.*got strength={strength}"):
        image_to_image(DDIM(), GaussianDenoiser(StraightSchedule(), 0.0, 0.5), torch.zeros(1, 1), strength)


class Correlated(Denoiser):
    """E[x | x_t] for data N(0, C) in two dimensions of variance 1/4 and correlation 0.8."""

    covariance = 0.25 * torch.tensor([[1.0, 0.8], [0.8, 1.0]])

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t, t, cond=None):
        alpha, sigma = (scale[0].item() for scale in self.schedule.at(t, x_t))
        noisy = alpha**2 * self.covariance + sigma**2 * torch.eye(2)
        x_hat = alpha * x_t @ torch.linalg.solve(noisy, self.covariance)
        return Prediction(x_hat, (x_t - alpha * x_hat) / sigma)


def filled(schedule, num_resamples, sampler, jump_length=1):
    """The mean and the standard deviation of dimension 2 where dimension 1 is 0.5; exactly, 0.4 and 0.3."""
    torch.manual_seed(0)
    x = torch.tensor([[0.5, 0.0]]).expand(3000, 2)
    known = torch.tensor([True, False])
    out = RePaint(num_resamples, jump_length).sample(sampler, Correlated(schedule), x, known)
    assert torch.equal(out[:, 0], x[:, 0])
    return out[:, 1].mean().item(), out[:, 1].std().item()


@every_schedule
def test_repaint_approaches_the_conditional_distribution(schedule):
    sampler = DDPM(num_steps=60)
    once, often = filled(schedule, 1, sampler), filled(schedule, 10, sampler)
    assert often[0] == pytest.approx(0.4, abs=0.05)
    assert often[1] == pytest.approx(0.3, abs=0.06)  # the "posterior" variance is too small for 60 steps
    assert abs(once[0] - 0.4) > abs(often[0] - 0.4)


@pytest.mark.parametrize("name", ["straight", "edm"])
def test_repaint_comes_as_close_as_one_likes(name):
    """With the variance that is right for normal data, "beta", 50 steps: 40 times come within 0.03, 10 within 0.05, one not at all."""
    sampler = DDPM(num_steps=50, variance="beta")
    means, stds = zip(*(filled(SCHEDULES[name], num, sampler) for num in (1, 10, 40)), strict=True)
    off = [max(abs(mean - 0.4), abs(std - 0.3)) for mean, std in zip(means, stds, strict=True)]
    assert off[0] > 0.1
    assert off[1] < 0.05
    assert off[2] < 0.03


@dataclass(frozen=True, kw_only=True)
class Witness(Sampler):
    """Writes down which step is taken, and how many earlier ones are remembered."""

    num_steps: int | None = 4

    def step(self, run, x_t, t, s):
        assert (run.times[run.index], run.times[run.index + 1]) == (t[0], s[0])
        run.cond["seen"].append((run.index, len(run.memory)))
        run.memory.append(t)
        return x_t


def test_a_multistep_sampler_forgets_what_was_jumped_back_over():
    cond = {"seen": []}
    RePaint(2).sample(Witness(), Correlated(StraightSchedule()), torch.zeros(3, 2), torch.tensor([True, False]), cond)
    assert cond["seen"] == [(0, 0), (0, 0), (1, 1), (1, 0), (2, 1), (2, 0), (3, 1)]


def test_repaint_may_jump_further_and_with_multistep_samplers():
    mean, std = filled(StraightSchedule(), 6, DDPM(num_steps=60), jump_length=5)
    assert (mean, std) == pytest.approx((0.4, 0.3), abs=0.08)
    mean, std = filled(LinearSchedule(), 10, DPMpp2M(num_steps=60, eta=1.0))
    assert (mean, std) == pytest.approx((0.4, 0.3), abs=0.08)


def test_the_walk_of_repaint_goes_back_and_forth():
    assert list(RePaint(1).walk(3)) == [1, 2, 3]
    assert list(RePaint(2).walk(3)) == [1, 0, 1, 2, 1, 2, 3]
    assert list(RePaint(2, jump_length=2).walk(4)) == [1, 2, 3, 1, 2, 3, 4]


@pytest.mark.parametrize(("arguments", "message"), [((0, 1), "num_resamples=0"), ((2, 0), "jump_length=0")])
def test_what_makes_no_walk_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RePaint(*arguments)
    with pytest.raises(ValueError, match="need jump_length < num_steps=5"):
        list(RePaint(2, jump_length=9).walk(5))
