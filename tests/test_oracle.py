"""Every sampler on every schedule under every parameterization, where the answer is known: to the data's own distribution."""

import pytest
import torch

from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.grids import Karras, LogSNR, Quadratic, Uniform
from alphabar.diffusion.parameterizations import EDM, Epsilon, V, Velocity, X
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.samplers.unipc import UniPC
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule, LaplaceSchedule, SigmoidSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule, ScaledLinearSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from oracle import MixtureDenoiser, OracleNetwork

SCHEDULES = {
    "linear": LinearSchedule(),
    "linear-zero-snr": LinearSchedule(zero_terminal_snr=True),
    "scaled_linear": ScaledLinearSchedule(),
    "cosine": CosineSchedule(),
    "sigmoid": SigmoidSchedule(),
    "laplace": LaplaceSchedule(),
    "edm": EDMSchedule(),
    "straight": StraightSchedule(),
    "straight-shift3": StraightSchedule(shift=3.0),
    "shifted_cosine": ShiftedCosineSchedule(resolution=128),
}
PARAMETERIZATIONS = {"epsilon": Epsilon(), "x": X(), "v": V(), "velocity": Velocity(), "edm": EDM()}
FINE = Karras(sigma_min=0.01, sigma_max=150.0)
SAMPLERS = {
    "ddpm-karras-120": DDPM(num_steps=120, grid=FINE),
    "ddpm-beta-200": DDPM(num_steps=200, variance="beta"),
    "ddim-150": DDIM(num_steps=150),
    "ddim-quadratic-60": DDIM(num_steps=60, grid=Quadratic()),
    "ddim-eta1-karras-120": DDIM(num_steps=120, eta=1.0, grid=FINE),
    "ddim-eta0.5-karras-80": DDIM(num_steps=80, eta=0.5, grid=FINE),
    "euler-karras-60": Euler(num_steps=60, grid=FINE),
    "euler-churn-150": Euler(num_steps=150, churn=10.0),
    "heun-karras-20": Heun(num_steps=20, grid=FINE),
    "heun-churn-60": Heun(num_steps=60, churn=20.0),
    "dpmpp_2m-100": DPMpp2M(num_steps=100),
    "dpmpp_2m-karras-25": DPMpp2M(num_steps=25, grid=FINE),
    "dpmpp_2m_sde-120": DPMpp2M(num_steps=120, eta=1.0),
    "unipc-100": UniPC(num_steps=100),
    "unipc-karras-25": UniPC(num_steps=25, grid=FINE),
    "unipc3-log_snr-25": UniPC(num_steps=25, order=3, grid=LogSNR(sigma_min=0.01, sigma_max=150.0)),
}
NUM = 2000
WEIGHTS, MEANS, STDS = (
    torch.tensor([[0.5, 0.5], [0.3, 0.7]]),
    torch.tensor([[0.3, 0.3], [-0.6, 0.5]]),
    torch.tensor([[0.5, 0.5], [0.15, 0.2]]),
)
MEAN, STD = 0.17, 0.5372  # of the mixture: 0.3 * -0.6 + 0.7 * 0.5, and from its second moment


def defined(schedule, parameterization, sampler):
    ends = schedule(schedule.time(torch.tensor([1e-3, 1.0])))
    return parameterization.is_defined(*ends) and not (schedule.is_discrete and getattr(sampler, "churn", 0) > 0)


PRODUCT = [
    pytest.param(schedule, parameterization, sampler, id=f"{s}-{p}-{n}")
    for s, schedule in SCHEDULES.items()
    for p, parameterization in PARAMETERIZATIONS.items()
    for n, sampler in SAMPLERS.items()
    if defined(schedule, parameterization, sampler)
]


def stratified(num, columns, generator):
    """Normal numbers [num, columns], each column with evenly spaced quantiles in random order: their moments hardly vary."""
    quantiles = (torch.arange(num) + torch.rand(columns, num, generator=generator)) / num
    order = torch.rand(columns, num, generator=generator).argsort(1)
    return torch.special.ndtri(quantiles.gather(1, order).clamp(1e-6, 1 - 1e-6)).T


def run(schedule, parameterization, sampler):
    exact = MixtureDenoiser(schedule, WEIGHTS, MEANS, STDS)
    denoiser = NetworkDenoiser(OracleNetwork(exact, parameterization), schedule, parameterization)
    generator = torch.Generator().manual_seed(0)
    mode = (torch.arange(NUM) / NUM >= WEIGHTS[:, :1]).long().T[:, :, None]  # [NUM, 2, 1]: exactly 30% in the first of column 1
    means, stds = (values.expand(NUM, -1, -1).gather(2, mode)[..., 0] for values in (MEANS, STDS))
    x = means + stds * stratified(NUM, 2, generator)
    begin = sampler.times(schedule)[:1].expand(NUM)
    x_T = schedule.q_sample(x, begin, stratified(NUM, 2, generator)).float()
    return sampler.sample(denoiser, x_T, noise=lambda like: stratified(*like.shape, generator))


@pytest.mark.parametrize(("schedule", "parameterization", "sampler"), PRODUCT)
def test_every_combination_recovers_the_data(schedule, parameterization, sampler):
    """Column 0 is N(0.3, 0.5^2), column 1 the mixture 0.3 N(-0.6, 0.15^2) + 0.7 N(0.5, 0.2^2).

    They start from the true x_T, since some schedules leave signal in it. The bounds are for what 2,000 stratified draws leave to
    chance (0.015) and for the discretisation. That is largest in two cases: even steps on the laplace schedule, few of which are
    close to data, and squared ones on the EDM schedule, where almost all of them fall on levels at which there is only noise.
    """
    is_coarse = (schedule is SCHEDULES["laplace"] and sampler.grid == Uniform()) or (
        schedule is SCHEDULES["edm"] and sampler.grid == Quadratic()
    )
    bound = 0.07 if is_coarse else 0.03
    x = run(schedule, parameterization, sampler)
    assert x.mean(0).tolist() == pytest.approx([0.3, MEAN], abs=0.02)
    assert x.std(0).tolist() == pytest.approx([0.5, STD], abs=bound)
    low = x[:, 1] < -0.1  # three standard deviations from both modes
    assert low.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert [x[low, 1].std().item(), x[~low, 1].std().item()] == pytest.approx([0.15, 0.2], abs=bound)
