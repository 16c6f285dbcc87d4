"""Trajectories of our samplers against those of diffusers' schedulers, with the same network and the same noise.

Tolerances are relative to the largest value of the result: 2e-3, mostly because diffusers keeps its tables in float32.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn

from alphabar.diffusion.denoiser import Denoiser, NetworkDenoiser, Prediction
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.parameterizations import EDM, Epsilon, Velocity
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.samplers.unipc import UniPC
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.diffusion.thresholdings import Static
from oracle import seeded

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
COMMON = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}


class Wave(nn.Module):
    """Any smooth function of x and the label will do to compare two samplers."""

    def forward(self, x, label, cond=None):
        return torch.sin(3 * x + label.view(-1, 1, 1, 1) / 200) + 0.3 * x


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3 * theirs.abs().max().item())


def noises(seed=0):
    """A stream of noise by torch's own generator, as diffusers draws it."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator)


def follow(scheduler, x, **arguments):
    """What a scheduler makes of x by calling its `step` at each of its timesteps."""
    for timestep in scheduler.timesteps:
        y = Wave()(scheduler.scale_model_input(x, timestep), torch.full((len(x),), float(timestep)))
        x = scheduler.step(y, timestep, x, **arguments).prev_sample
    return x


def variance_preserving():
    """(Our denoiser, x_T, and alpha_T, by which x_T is divided in the coordinates of k-diffusion)."""
    schedule = LinearSchedule()
    return NetworkDenoiser(Wave(), schedule, Epsilon()), seeded(0, 4, 1, 4, 4), schedule.alpha[-1]


@pytest.mark.parametrize("num_steps", [10, 50])
def test_euler(num_steps):
    from diffusers import EulerDiscreteScheduler

    denoiser, x_T, alpha_T = variance_preserving()
    scheduler = EulerDiscreteScheduler(**COMMON)
    scheduler.set_timesteps(num_steps)
    close(Euler(num_steps=num_steps).sample(denoiser, x_T), follow(scheduler, x_T / alpha_T))


class AlphaOne(Denoiser):
    """An epsilon network of a variance-preserving schedule in the coordinates x / alpha, where k-diffusion and diffusers' Heun
    live: the EDM schedule's. (On the schedule itself our trapezoidal rule follows the curve (alpha, sigma), on which a step from
    alpha near 0 is not 10,000 long.)"""

    def __init__(self, timesteps):
        super().__init__()
        self.schedule = EDMSchedule()
        self.timesteps = timesteps  # by sigma

    def forward(self, x_t, t, cond=None):
        timestep = self.timesteps[min(self.timesteps, key=lambda sigma: abs(sigma - t[0].item()))]
        sigma = t.float().view(-1, 1, 1, 1)
        eps_hat = Wave()(x_t / (1 + sigma**2).sqrt(), torch.full((len(x_t),), timestep))
        return Prediction(x_t - sigma * eps_hat, eps_hat)


@pytest.mark.parametrize("num_steps", [10, 50])
def test_heun(num_steps):
    from diffusers import HeunDiscreteScheduler

    x_T = 150 * seeded(0, 4, 1, 4, 4)
    scheduler = HeunDiscreteScheduler(**COMMON)
    scheduler.set_timesteps(num_steps)
    timesteps = dict(zip(scheduler.sigmas[:-1].tolist(), scheduler.timesteps.tolist(), strict=True))
    times = torch.tensor([*timesteps, 0.0], dtype=torch.float64)
    assert len(times) == num_steps + 1
    ours = Heun(num_steps=num_steps).sample(AlphaOne(timesteps), x_T, times=times)
    close(ours, follow(scheduler, x_T))


@pytest.mark.parametrize("num_steps", [10, 50])
def test_ancestral_euler_is_ddim_with_eta_1(num_steps):
    from diffusers import EulerAncestralDiscreteScheduler

    denoiser, x_T, alpha_T = variance_preserving()
    scheduler = EulerAncestralDiscreteScheduler(**COMMON)
    scheduler.set_timesteps(num_steps)
    theirs = follow(scheduler, x_T / alpha_T, generator=torch.Generator().manual_seed(5))
    close(DDIM(num_steps=num_steps, eta=1.0).sample(denoiser, x_T, noise=noises(5)), theirs)


@pytest.mark.parametrize("num_steps", [8, 20, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpmpp_2m(num_steps, eta):
    from diffusers import DPMSolverMultistepScheduler

    denoiser, x_T, _ = variance_preserving()
    kind = "sde-dpmsolver++" if eta else "dpmsolver++"
    scheduler = DPMSolverMultistepScheduler(**COMMON, algorithm_type=kind, final_sigmas_type="zero")
    scheduler.set_timesteps(num_steps)
    theirs = follow(scheduler, x_T, generator=torch.Generator().manual_seed(5))
    close(DPMpp2M(num_steps=num_steps, eta=eta).sample(denoiser, x_T, noise=noises(5)), theirs)


@pytest.mark.parametrize("num_steps", [8, 20, 50])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(num_steps, order):
    from diffusers import UniPCMultistepScheduler

    denoiser, x_T, _ = variance_preserving()
    scheduler = UniPCMultistepScheduler(**COMMON, solver_order=order, final_sigmas_type="zero")
    scheduler.set_timesteps(num_steps)
    close(UniPC(num_steps=num_steps, order=order).sample(denoiser, x_T), follow(scheduler, x_T))


EDM_TABLE = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0}


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_euler_with_churn_and_the_preconditioning_of_edm(churn):
    from diffusers import EDMEulerScheduler

    scheduler = EDMEulerScheduler(**EDM_TABLE)
    scheduler.set_timesteps(18)
    denoiser = NetworkDenoiser(Wave(), EDMSchedule(), EDM(label_scale=1.0))
    x_T = 80 * seeded(0, 4, 1, 4, 4)
    arguments = {"s_churn": churn, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
    sampler = Euler(num_steps=18, churn=churn, s_min=0.05, s_max=50.0, s_noise=1.003)
    theirs, x = [], x_T
    for timestep in scheduler.timesteps:
        # Theirs evaluates at the old noise level even after churn has raised it; ours, as Alg. 2, at the raised one.
        y = Wave()(scheduler.scale_model_input(x, timestep), torch.full((4,), float(timestep)))
        x = scheduler.step(y, timestep, x, generator=torch.Generator().manual_seed(5), **arguments).prev_sample
        theirs.append(x)
    ours = list(sampler.trajectory(denoiser, x_T, noise=noises(5)))[1:]
    if churn == 0:
        for a, b in zip(ours, theirs, strict=True):
            close(a, b)
    else:
        begin = algorithm_2(denoiser, sampler, x_T, noises(5))
        for a, b in zip(ours, begin, strict=True):
            close(a, b)


def algorithm_2(denoiser, sampler, x, noise):
    """Karras et al. 2022, Alg. 2, lines 3 to 8, as they state it; without the correction for Euler."""
    sigmas = [*sampler.times(denoiser.schedule).tolist()]
    states = []
    for t, s in pairwise(sigmas):
        z = noise(x)
        gamma = min(sampler.churn / sampler.num_steps, 2**0.5 - 1) if sampler.s_min <= t <= sampler.s_max else 0.0
        t_hat = t + gamma * t
        x_hat = x + (t_hat**2 - t**2) ** 0.5 * sampler.s_noise * z
        d = (x_hat - denoiser(x_hat, torch.full((4,), t_hat)).x_hat) / t_hat
        x_next = x_hat + (s - t_hat) * d
        if isinstance(sampler, Heun) and s > 0:
            d_next = (x_next - denoiser(x_next, torch.full((4,), s)).x_hat) / s
            x_next = x_hat + (s - t_hat) * (d + d_next) / 2
        x = x_next
        states.append(x)
    return states


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_heun_is_algorithm_2_of_karras_et_al(churn):
    denoiser = NetworkDenoiser(Wave(), EDMSchedule(), EDM(label_scale=1.0))
    sampler = Heun(num_steps=18, churn=churn, s_min=0.05, s_max=50.0, s_noise=1.003)
    x_T = 80 * seeded(0, 4, 1, 4, 4)
    ours = list(sampler.trajectory(denoiser, x_T, noise=noises()))[1:]
    for a, b in zip(ours, algorithm_2(denoiser, sampler, x_T, noises()), strict=True):
        close(a, b)


def test_dpmpp_2m_on_the_edm_schedule():
    from diffusers import EDMDPMSolverMultistepScheduler

    scheduler = EDMDPMSolverMultistepScheduler(**EDM_TABLE, final_sigmas_type="zero")
    scheduler.set_timesteps(20)
    x_T = 80 * seeded(0, 4, 1, 4, 4)
    denoiser = NetworkDenoiser(Wave(), EDMSchedule(), EDM(label_scale=1.0))
    close(DPMpp2M(num_steps=20).sample(denoiser, x_T), follow(scheduler, x_T))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_on_straight_paths_with_the_shift_of_sd3(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / 20 for i in range(20)])
    x_T = x = seeded(0, 4, 1, 4, 4)
    for timestep in scheduler.timesteps:
        x = scheduler.step(Wave()(x, timestep.expand(4)), timestep, x).prev_sample
    denoiser = NetworkDenoiser(Wave(), StraightSchedule(shift), Velocity())
    close(Euler(num_steps=20).sample(denoiser, x_T), x)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("num_steps", [10, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(clip, num_steps, eta):
    from diffusers import DDIMScheduler

    denoiser, x_T, _ = variance_preserving()
    scheduler = DDIMScheduler(clip_sample=clip, **COMMON)
    scheduler.set_timesteps(num_steps)
    noise, x = ImageNoise(0, range(4)), x_T
    for timestep in scheduler.timesteps:
        y = Wave()(x, torch.full((4,), float(timestep)))
        drawn = noise(x) if eta else None
        x = scheduler.step(y, timestep, x, eta=eta, variance_noise=drawn, use_clipped_model_output=True).prev_sample
    sampler = DDIM(num_steps=num_steps, thresholding=Static() if clip else None, eta=eta)
    close(sampler.sample(denoiser, x_T, noise=ImageNoise(0, range(4))), x)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    ("variance", "num_steps"),
    # With "beta" over a subset of the steps, diffusers adds noise to the finished image; Ho et al. 2020 (Alg. 2) and we do not.
    [("posterior", 50), ("posterior", 1000), ("beta", 1000)],
)
def test_ddpm(clip, variance, num_steps):
    from diffusers import DDPMScheduler

    denoiser, x_T, _ = variance_preserving()
    kind = {"posterior": "fixed_small", "beta": "fixed_large"}[variance]
    scheduler = DDPMScheduler(clip_sample=clip, variance_type=kind, **COMMON)
    scheduler.set_timesteps(num_steps)
    theirs = follow(scheduler, x_T, generator=torch.Generator().manual_seed(5))
    sampler = DDPM(num_steps=num_steps, thresholding=Static() if clip else None, variance=variance)
    close(sampler.sample(denoiser, x_T, noise=noises(5)), theirs)
