import pytest
import torch
from torch import nn

from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.parameterizations import Epsilon
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.schedules.linear import LinearSchedule
from oracle import GaussianDenoiser, seeded
from test_parameterizations import PARAMETERIZATIONS
from test_schedules import SCHEDULES

SAMPLERS = {
    "ddpm": DDPM(clip=False),
    "ddpm-beta": DDPM(clip=False, variance="beta"),
    "ddpm-250": DDPM(num_steps=250, clip=False),
    "ddim": DDIM(num_steps=None, clip=False),
    "ddim-100": DDIM(num_steps=100, clip=False),
    "ddim-eta1": DDIM(num_steps=None, clip=False, eta=1.0),
    "ddim-eta0.5": DDIM(num_steps=200, clip=False, eta=0.5),
}


class Oracle(nn.Module):
    """A network that outputs the exact y under a parameterization, for Gaussian data."""

    def __init__(self, exact, parameterization):
        super().__init__()
        self.exact = exact
        self.parameterization = parameterization

    def forward(self, x, label, cond=None):
        t = label.long() + 1
        alpha, sigma = self.exact.schedule.at(t, x)
        return self.parameterization.target(*self.exact(x, t), alpha, sigma)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS)
@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_every_sampler_recovers_gaussian_data_from_its_exact_denoiser(sampler, parameterization, make):
    """Mean 0.3 and standard deviation 0.5, from 20,000 draws.

    They start from the true x_T, since some schedules leave signal in it. The bound is three standard errors (0.011) and what the
    discretisation adds: 0.004, or 0.009 where a first-order sampler skips nine steps of ten.
    """
    exact = GaussianDenoiser(make(), mean=0.3, std=0.5)
    denoiser = NetworkDenoiser(Oracle(exact, parameterization), exact.schedule, parameterization)
    generator = torch.Generator().manual_seed(0)
    x, eps = 0.3 + 0.5 * torch.randn(20_000, generator=generator), torch.randn(20_000, generator=generator)
    x_T = exact.schedule.q_sample(x, torch.full((20_000,), 1000), eps)
    x = sampler.sample(denoiser, x_T, noise=lambda like: torch.randn(like.shape, generator=generator))
    bound = 0.02 if sampler.num_steps == 100 else 0.015
    assert x.mean().item() == pytest.approx(0.3, abs=bound)
    assert x.std().item() == pytest.approx(0.5, abs=bound)


def test_the_oracle_would_notice_a_wrong_variance():
    """DDPM that forgets its noise collapses: the bound of the test above is not too wide."""
    denoiser = GaussianDenoiser(LinearSchedule(), mean=0.3, std=0.5)
    x = DDPM(clip=False).sample(denoiser, seeded(0, 20_000), noise=torch.zeros_like)
    assert abs(x.std().item() - 0.5) > 0.1


def test_ddim_with_eta_1_over_all_steps_is_ddpm_with_the_posterior_variance():
    denoiser = GaussianDenoiser(LinearSchedule(num_steps=200), mean=0.3, std=0.5)
    x_T, indices = seeded(0, 8, 3), range(8)
    ddpm = DDPM(clip=False).sample(denoiser, x_T, noise=ImageNoise(0, indices))
    ddim = DDIM(num_steps=None, clip=False, eta=1.0).sample(denoiser, x_T, noise=ImageNoise(0, indices))
    torch.testing.assert_close(ddim, ddpm, rtol=1e-3, atol=1e-4)


def test_a_trajectory_has_every_time_of_its_grid():
    denoiser = GaussianDenoiser(LinearSchedule(), mean=0.0, std=0.5)
    x_T = seeded(0, 2, 3)
    states = list(DDIM(num_steps=10).trajectory(denoiser, x_T))
    assert len(states) == 11
    assert torch.equal(states[0], x_T)
    by_hand = DDIM(num_steps=10).sample(denoiser, x_T, grid=torch.tensor([1000, 700, 100, 0]))
    assert not torch.equal(by_hand, states[-1])


@pytest.mark.parametrize("clip", [True, False])
def test_clipping_keeps_samples_in_the_data_range(clip):
    denoiser = GaussianDenoiser(LinearSchedule(), mean=0.8, std=0.5)
    x = DDIM(num_steps=20, clip=clip).sample(denoiser, seeded(0, 1000))
    assert (x.abs().max() <= 1) == clip


def theirs(scheduler, network, x_T, num_steps, noise):
    """The trajectory of a scheduler of diffusers with our network and our noise."""
    scheduler.set_timesteps(num_steps)
    x_t = x_T
    for timestep in scheduler.timesteps:
        y = network(x_t, torch.full((len(x_t),), float(timestep)))
        x_t = scheduler_step(scheduler, y, timestep, x_t, noise)
    return x_t


def scheduler_step(scheduler, y, timestep, x_t, noise):
    from diffusers import DDIMScheduler

    if isinstance(scheduler, DDIMScheduler):
        eta = 0.0 if noise is None else 1.0
        given = None if noise is None else noise(x_t)
        return scheduler.step(y, timestep, x_t, eta=eta, variance_noise=given, use_clipped_model_output=True).prev_sample
    mean = scheduler.step(y, timestep, x_t, generator=torch.Generator().manual_seed(0)).prev_sample
    if timestep == 0:
        noise(x_t)
        return mean
    drawn = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(0))
    std = scheduler._get_variance(timestep) ** 0.5
    return mean - std * drawn + std * noise(x_t)


class Wave(nn.Module):
    """Any smooth function of x and the label will do to compare two samplers."""

    def forward(self, x, label, cond=None):
        return torch.sin(3 * x + label.view(-1, 1, 1, 1) / 200) + 0.3 * x


COMMON = {"num_train_timesteps": 1000, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("num_steps", [10, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_follows_the_trajectory_of_diffusers(clip, num_steps, eta):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=clip, beta_start=1e-4, beta_end=0.02, **COMMON)
    x_T, indices = seeded(0, 4, 1, 4, 4), range(4)
    expected = theirs(scheduler, Wave(), x_T, num_steps, ImageNoise(0, indices) if eta else None)
    denoiser = NetworkDenoiser(Wave(), LinearSchedule(), Epsilon())
    x = DDIM(num_steps=num_steps, clip=clip, eta=eta).sample(denoiser, x_T, noise=ImageNoise(0, indices))
    torch.testing.assert_close(x, expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item())


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    ("variance", "num_steps"),
    # With "beta" over a subset of the steps, diffusers adds noise to the finished image; Ho et al. 2020 (Alg. 2) and we do not.
    [("posterior", 50), ("posterior", 1000), ("beta", 1000)],
)
def test_ddpm_follows_the_trajectory_of_diffusers(clip, variance, num_steps):
    from diffusers import DDPMScheduler

    kind = {"posterior": "fixed_small", "beta": "fixed_large"}[variance]
    scheduler = DDPMScheduler(clip_sample=clip, variance_type=kind, beta_start=1e-4, beta_end=0.02, **COMMON)
    x_T, indices = seeded(0, 4, 1, 4, 4), range(4)
    expected = theirs(scheduler, Wave(), x_T, num_steps, ImageNoise(0, indices))
    denoiser = NetworkDenoiser(Wave(), LinearSchedule(), Epsilon())
    x = DDPM(num_steps=num_steps, clip=clip, variance=variance).sample(denoiser, x_T, noise=ImageNoise(0, indices))
    torch.testing.assert_close(x, expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item())


def test_noise_of_an_image_depends_on_seed_and_index_alone():
    together = ImageNoise(0, range(10))
    first, second = together.draw((3, 4)), together.draw((3, 4))
    alone = ImageNoise(0, [7])
    assert torch.equal(alone.draw((3, 4))[0], first[7])
    assert torch.equal(alone.draw((3, 4))[0], second[7])
    assert not torch.equal(first[7], second[7])
    assert not torch.equal(ImageNoise(1, [7]).draw((3, 4))[0], first[7])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(num_steps=0), "need num_steps >= 1, got num_steps=0"),
        (lambda: DDIM(eta=1.5), "need 0 <= eta <= 1, got eta=1.5"),
    ],
)
def test_what_makes_no_sampler_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("sampler", "label"),
    [
        (DDIM(), "ddim50"),
        (DDIM(num_steps=None, eta=0.5), "ddim1000-eta0.5"),
        (DDPM(), "ddpm1000"),
        (DDPM(num_steps=20, variance="beta", clip=False), "ddpm20-clipFalse-variancebeta"),
    ],
)
def test_a_label_says_what_changes_a_figure(sampler, label):
    assert sampler.label(LinearSchedule()) == label
