"""Guidance where its result is known: of normal distributions, at every weight, on every schedule."""

import pytest
import torch

from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.guidance import AutoguidedDenoiser, CFGDenoiser, Linear
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.parameterizations import Epsilon, V, Velocity, X
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.samplers.unipc import UniPC
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.diffusion.thresholdings import Dynamic, Static
from oracle import ConditionalGaussianDenoiser, GaussianDenoiser, GuidedGaussian, OracleNetwork, seeded
from test_guidance import RULES, SCHEDULES

MEAN, STD, WIDE = 0.8, 0.4, 0.9
COND, NULL = {"vector": torch.tensor([[MEAN, STD]])}, {"vector": torch.tensor([[0.0, WIDE]])}
PARAMETERIZATIONS = {"epsilon": Epsilon(), "x": X(), "v": V(), "velocity": Velocity()}
COMBINATIONS = [
    pytest.param(schedule, parameterization, id=f"{s}-{p}")
    for s, schedule in SCHEDULES.items()
    for p, parameterization in PARAMETERIZATIONS.items()
    if parameterization.is_defined(*schedule(schedule.time(torch.tensor([1e-3, 1.0]))))
]


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(("schedule", "parameterization"), COMBINATIONS)
def test_guided_normal_distributions_are_known(schedule, parameterization, weight):
    """At every time: the score of N(mean, std^2)^weight * N(0, wide^2)^(1 - weight), noised."""
    exact = ConditionalGaussianDenoiser(schedule)
    denoiser = NetworkDenoiser(OracleNetwork(exact, parameterization), schedule, parameterization)
    levels = torch.linspace(1e-3, 1, 200, dtype=torch.float64)
    t = schedule.time(levels)
    x_t = seeded(3, 200, 3, dtype=torch.float64)
    alpha, sigma = schedule.at(t, x_t)
    cond = {"vector": COND["vector"].double().expand(200, -1)}
    x_hat, eps_hat, _ = CFGDenoiser(denoiser, Linear(weight=weight), {"vector": NULL["vector"].double()})(x_t, t, cond)
    known = GuidedGaussian(*cond["vector"][0].tolist(), float(NULL["vector"][0, 1]), weight)
    score = known.score(x_t, alpha, sigma)
    torch.testing.assert_close(eps_hat, -sigma * score, rtol=1e-9, atol=1e-9)
    some = (alpha > 0).flatten()
    torch.testing.assert_close(x_hat[some], ((x_t + sigma**2 * score) / alpha)[some], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sampler", "bound"), [(Heun(num_steps=300), 2e-3), (DDIM(num_steps=500), 8e-3)])
@pytest.mark.parametrize(("schedule", "parameterization"), COMBINATIONS)
def test_guided_trajectories_end_where_they_must(schedule, parameterization, sampler, bound):
    exact = ConditionalGaussianDenoiser(schedule)
    denoiser = NetworkDenoiser(OracleNetwork(exact, parameterization), schedule, parameterization)
    quantiles = torch.special.ndtri((torch.arange(40, dtype=torch.float64) + 0.5) / 40)[:, None]
    x_T = sampler.start(schedule, quantiles)
    x = sampler.sample(CFGDenoiser(denoiser, Linear(weight=2.0), NULL), x_T, {"vector": COND["vector"].expand(40, -1)})
    alpha, sigma = schedule(sampler.times(schedule)[0])
    known = GuidedGaussian(MEAN, STD, WIDE, 2.0).end(x_T, alpha.double(), sigma.double())
    assert (x - known).abs().max() < bound
    assert [x.mean().item(), x.std().item()] == pytest.approx([known.mean().item(), known.std().item()], abs=bound)
    assert known.mean() > MEAN + 0.05  # beyond what is true
    assert known.std() < 0.8 * STD


def test_the_known_end_is_that_of_the_plain_flow_at_weight_1():
    schedule, x_T = EDMSchedule(), 80 * seeded(0, 5, 2, dtype=torch.float64)
    t = torch.full((5,), 80.0, dtype=torch.float64)
    plain = GaussianDenoiser(schedule, MEAN, STD).exact(x_T, t, torch.zeros_like(t))
    known = GuidedGaussian(MEAN, STD, WIDE, 1.0).end(x_T, torch.ones((), dtype=torch.float64), t[0])
    torch.testing.assert_close(known, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("thresholding", [None, Static(), Dynamic()], ids=["none", "static", "dynamic"])
@pytest.mark.parametrize(
    "sampler", [DDPM, DDIM, Euler, Heun, DPMpp2M, UniPC, lambda **k: DDIM(eta=1.0, **k), lambda **k: Heun(churn=5.0, **k)]
)
def test_every_sampler_takes_guidance(sampler, thresholding):
    schedule = StraightSchedule()
    sampler = sampler(num_steps=8, thresholding=thresholding)
    strong, weak = ConditionalGaussianDenoiser(schedule), GaussianDenoiser(schedule, 0.0, WIDE)
    cond = {"vector": COND["vector"].expand(16, -1)}

    def sample(denoiser):
        return sampler.sample(denoiser, seeded(0, 16, 3, dtype=torch.float64), cond, ImageNoise(0, range(16)))

    plain = sample(strong)
    assert torch.equal(sample(CFGDenoiser(strong, Linear(weight=1.0), NULL)), plain)
    assert torch.equal(sample(AutoguidedDenoiser(strong, weak, Linear(weight=1.0))), plain)
    for rule in RULES:
        free, auto = sample(CFGDenoiser(strong, rule, NULL)), sample(AutoguidedDenoiser(strong, weak, rule))
        assert free.isfinite().all()
        assert not torch.allclose(free, plain)
        torch.testing.assert_close(auto, free, rtol=1e-4, atol=1e-4)  # the weak one says the same
