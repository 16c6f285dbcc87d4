"""Samplers on schedules under parameterizations, where the answer is known: from noise to the data's own distribution.

Schedules and samplers are those of conf/, and settings of them that are worth a look of their own. Under one parameterization, every
sampler of conf/ runs on every schedule, and every setting of a sampler on the schedules of conf/; every parameterization runs on every
schedule with two samplers: one that continues x_hat alone, and one that follows x_hat and eps_hat. A sampler sees no more of a
parameterization than these two, so that the full product, which takes a few minutes more, cannot differ; `pytest -m full` runs it.
"""

import pytest
import torch

import parts
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.parameterizations import EDM, Epsilon, V, Velocity, X
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.samplers.unipc import UniPC
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.diffusion.timesteps import Karras, LogSNR, Quadratic
from oracle import MixtureDenoiser, OracleNetwork

FINE = Karras(sigma_min=0.01, sigma_max=150.0)
PLAIN_SCHEDULES, PLAIN_SAMPLERS = parts.schedules(), parts.samplers(120, FINE)
SCHEDULES = PLAIN_SCHEDULES | {
    "linear-zero-snr": LinearSchedule(zero_terminal_snr=True),
    "two-functions": parts.Cosine(),
    "straight-shift3": StraightSchedule(shift=3.0),
    "shifted_cosine-128": ShiftedCosineSchedule(resolution=128),
}
PARAMETERIZATIONS = {"epsilon": Epsilon(), "x": X(), "v": V(), "velocity": Velocity(), "edm": EDM()}
SETTINGS = {
    "ddpm-beta-200": DDPM(num_steps=200, variance="beta"),
    "ddim-150": DDIM(num_steps=150),
    "ddim-quadratic-60": DDIM(num_steps=60, timesteps=Quadratic()),
    "ddim-eta0.5-karras-80": DDIM(num_steps=80, eta=0.5, timesteps=FINE),
    "euler-churn-150": Euler(num_steps=150, churn=10.0),
    "euler-karras-60": Euler(num_steps=60, timesteps=FINE),
    "heun-karras-20": Heun(num_steps=20, timesteps=FINE),
    "heun-churn-60": Heun(num_steps=60, churn=20.0),
    "dpmpp_2m-100": DPMpp2M(num_steps=100),
    "dpmpp_2m-karras-25": DPMpp2M(num_steps=25, timesteps=FINE),
    "unipc-100": UniPC(num_steps=100),
    "unipc-karras-25": UniPC(num_steps=25, timesteps=FINE),
    "unipc3-log_snr-25": UniPC(num_steps=25, order=3, timesteps=LogSNR(sigma_min=0.01, sigma_max=150.0)),
}
SAMPLERS = PLAIN_SAMPLERS | SETTINGS
COARSE_RATIO = 0.095  # sigma / alpha at which a last step begins that is too long to be followed closely
NUM = 2000
WEIGHTS, MEANS, STDS = (
    torch.tensor([[0.5, 0.5], [0.3, 0.7]]),
    torch.tensor([[0.3, 0.3], [-0.6, 0.5]]),
    torch.tensor([[0.5, 0.5], [0.15, 0.2]]),
)
MEAN, STD = 0.17, 0.5372  # of the mixture: 0.3 * -0.6 + 0.7 * 0.5, and from its second moment


def is_defined(schedule, parameterization):
    return parameterization.is_defined(*schedule(schedule.time(torch.tensor([1e-3, 1.0]))))


REFUSED = {(s, n) for s, schedule in SCHEDULES.items() for n, sampler in SAMPLERS.items() if parts.complaint(sampler, schedule)}


def product(schedules, parameterizations, samplers):
    cases = [
        pytest.param(SCHEDULES[s], PARAMETERIZATIONS[p], SAMPLERS[n], id=f"{s}-{p}-{n}")
        for s in schedules
        for p in parameterizations
        for n in samplers
        if is_defined(SCHEDULES[s], PARAMETERIZATIONS[p]) and (s, n) not in REFUSED
    ]
    return pytest.mark.parametrize(("schedule", "parameterization", "sampler"), cases)


def stratified(num, columns, generator):
    """Normal numbers [num, columns], each column with evenly spaced quantiles in random order: their moments hardly vary."""
    quantiles = (torch.arange(num) + torch.rand(columns, num, generator=generator)) / num
    order = torch.rand(columns, num, generator=generator).argsort(1)
    return torch.special.ndtri(quantiles.gather(1, order).clamp(1e-6, 1 - 1e-6)).T


def run(schedule, parameterization, sampler):
    exact = MixtureDenoiser(schedule, WEIGHTS, MEANS, STDS)
    denoiser = NetworkDenoiser(parts.LearnedVariance(OracleNetwork(exact, parameterization)), schedule, parameterization)
    generator = torch.Generator().manual_seed(0)
    mode = (torch.arange(NUM) / NUM >= WEIGHTS[:, :1]).long().T[:, :, None]  # [NUM, 2, 1]: exactly 30% in the first of column 1
    means, stds = (values.expand(NUM, -1, -1).gather(2, mode)[..., 0] for values in (MEANS, STDS))
    x = means + stds * stratified(NUM, 2, generator)
    begin = sampler.times(schedule)[:1].expand(NUM)
    x_T = schedule.q_sample(x, begin, stratified(NUM, 2, generator)).float()
    return sampler.sample(denoiser, x_T, noise=lambda like: stratified(*like.shape, generator))


def check_distribution(schedule, parameterization, sampler):
    """Column 0 is N(0.3, 0.5^2), column 1 the mixture 0.3 N(-0.6, 0.15^2) + 0.7 N(0.5, 0.2^2).

    They start from the true x_T, since some schedules leave signal in it. The bounds are for what 2,000 stratified draws leave to
    chance (0.015) and for the discretisation. That is largest in two cases: steps few of which are close to data, as even ones on the
    laplace schedule, and squared ones on the EDM schedule, where almost all of them fall on levels at which there is only noise.
    """
    alpha, sigma = schedule(sampler.times(schedule)[-2])
    is_coarse = sigma / alpha > COARSE_RATIO or (isinstance(schedule, EDMSchedule) and sampler.timesteps == Quadratic())
    bound = 0.07 if is_coarse else 0.03
    x = run(schedule, parameterization, sampler)
    assert x.mean(0).tolist() == pytest.approx([0.3, MEAN], abs=0.02)
    assert x.std(0).tolist() == pytest.approx([0.5, STD], abs=bound)
    low = x[:, 1] < -0.1  # three standard deviations from both modes
    assert low.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert [x[low, 1].std().item(), x[~low, 1].std().item()] == pytest.approx([0.15, 0.2], abs=bound)


@product(SCHEDULES, ["v"], PLAIN_SAMPLERS)
def test_every_sampler_recovers_the_data_on_every_schedule(schedule, parameterization, sampler):
    check_distribution(schedule, parameterization, sampler)


@product(PLAIN_SCHEDULES, ["v"], SETTINGS)
def test_every_setting_of_a_sampler_recovers_the_data_on_the_schedules_of_conf(schedule, parameterization, sampler):
    check_distribution(schedule, parameterization, sampler)


@product(SCHEDULES, ["epsilon", "x", "velocity", "edm"], ["dpmpp_2m-karras-25", "euler-karras-60"])
def test_every_parameterization_recovers_the_data_on_every_schedule(schedule, parameterization, sampler):
    check_distribution(schedule, parameterization, sampler)


@pytest.mark.full
@product(SCHEDULES, PARAMETERIZATIONS, SAMPLERS)
def test_every_combination_recovers_the_data(schedule, parameterization, sampler):
    check_distribution(schedule, parameterization, sampler)


def test_what_is_left_out_is_churn_between_the_steps_of_a_table():
    churned = {name for name, sampler in SETTINGS.items() if getattr(sampler, "churn", 0) > 0}
    tables = {name for name, schedule in SCHEDULES.items() if schedule.is_discrete}
    assert {(s, n) for s, n in REFUSED if n in SETTINGS} == {(s, n) for s in tables for n in churned}
    assert all(any((s, n) not in REFUSED for s in SCHEDULES) for n in SAMPLERS)
