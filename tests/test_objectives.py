"""Weightings, couplings and the objectives made of them."""

import math

import pytest
import torch
from torch import nn

from alphabar.diffusion.bound import bound_term
from alphabar.diffusion.denoiser import NetworkDenoiser, Prediction
from alphabar.diffusion.noise import RankShare
from alphabar.diffusion.objectives.couplings import Independent, Offset
from alphabar.diffusion.objectives.denoising import Denoising
from alphabar.diffusion.objectives.hybrid import Hybrid
from alphabar.diffusion.objectives.times import LogNormalTimes
from alphabar.diffusion.objectives.weightings import P2, LearnedUncertainty, MinSNR, Sigmoid, SoftMinSNR, UniformWeighting
from alphabar.diffusion.parameterizations import EDM, Epsilon, V, Velocity, X
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.models.couplings import Immiscible, OptimalTransport, assign_noise
from oracle import seeded

CPU = torch.device("cpu")


class Net(nn.Module):
    """Some function of the input with `channels` times as many channels; keeps its last input."""

    def __init__(self, channels=1):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 0.5))
        self.seen = None

    def forward(self, x, label, cond=None):
        self.seen = x
        return torch.cat([scale * x for scale in self.scale], 1)


# --- Weightings, against the papers' closed forms

# lambda = -2 log(tan(pi t / 2)) + a constant, so -dlambda / dt = 2 pi / sin(pi t), and training's t runs evenly from first to last.
SHIFTED, T = ShiftedCosineSchedule(256, base_resolution=64), torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
ALPHA, SIGMA = SHIFTED(T)
SNR = (ALPHA / SIGMA) ** 2
SLOPE = 2 * math.pi / torch.sin(math.pi * T) * (SHIFTED.last - SHIFTED.first)


def in_eps(weighting, parameterization):
    """The weight of the error of eps_hat that a weighting of y amounts to."""
    determinant = parameterization.determinant(ALPHA, SIGMA)
    denoiser = NetworkDenoiser(Net(), SHIFTED, parameterization)
    return weighting(torch.ones_like(ALPHA), SHIFTED.scales(T), denoiser) * (determinant / ALPHA) ** 2


@pytest.mark.parametrize("parameterization", [Epsilon(), X(), V(), Velocity(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (MinSNR(5.0), SNR.clamp(max=5) / SNR),
        (SoftMinSNR(4.0), 4 / (SNR + 4)),
        (P2(k=1.0, gamma=0.5), (1 + SNR) ** -0.5),
        (Sigmoid(bias=-1.0), 0.5 * SLOPE * torch.sigmoid(-1 - SNR.log())),  # Kingma & Gao 2023, eq. 2 and sec. 4
    ],
    ids=["min_snr", "soft_min_snr", "p2", "sigmoid"],
)
def test_weights_mean_the_same_whatever_the_network_outputs(weighting, expected, parameterization):
    torch.testing.assert_close(in_eps(weighting, parameterization), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("weighting", [MinSNR(), SoftMinSNR(), P2(), Sigmoid(), UniformWeighting()], ids=lambda w: type(w).__name__)
@pytest.mark.parametrize("parameterization", [X(), V(), Velocity()], ids=lambda p: type(p).__name__)
def test_weights_are_finite_at_both_ends_of_straight_paths(weighting, parameterization):
    schedule, t = StraightSchedule(), torch.tensor([2**-25, 1e-6, 1 - 1e-6, 1.0])
    denoiser = NetworkDenoiser(Net(), schedule, parameterization)
    assert weighting(torch.ones_like(t), schedule.scales(t), denoiser).isfinite().all()


@pytest.mark.parametrize("parameterization", [Epsilon(), V()], ids=lambda p: type(p).__name__)
def test_the_sigmoid_loss_is_an_integral_over_log_snr_whatever_the_schedule(parameterization):
    """E_t[w(lambda) * -dlambda/dt * error of eps_hat] / 2 does not depend on how lambda runs from end to end."""

    def loss(schedule):
        t = schedule.time(torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1] + 0.5 / 20000)
        alpha, sigma = schedule(t)
        determinant, log_snr = parameterization.determinant(alpha, sigma), 2 * (alpha / sigma).log()
        error = (determinant / alpha) ** 2 / (1 + (log_snr - 1).square())  # of y, for some error of eps_hat
        return Sigmoid(-1.0)(error, schedule.scales(t), NetworkDenoiser(Net(), schedule, parameterization)).mean().item()

    log_snr = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    exact = 0.5 * torch.trapezoid(torch.sigmoid(-1 - log_snr) / (1 + (log_snr - 1).square()), log_snr).item()
    end = math.exp(7.5)
    for schedule in (ShiftedCosineSchedule(64), SHIFTED, EDMSchedule(1 / end, end)):
        assert loss(schedule) == pytest.approx(exact, rel=1e-3)


def test_uncertainty_is_learned_for_every_level_by_itself():
    """The minimum of error / e^u + u is u = ln(error)."""
    torch.manual_seed(0)
    weighting, schedule = LearnedUncertainty(), EDMSchedule()
    denoiser = NetworkDenoiser(Net(), schedule, EDM())
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.02)
    for _ in range(400):
        t = schedule.time(torch.rand(256))
        loss = weighting(0.1 + t / (1 + t), schedule.scales(t), denoiser).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    t = torch.tensor([0.01, 0.3, 5.0, 60.0])
    learned = weighting.uncertainty(torch.ones_like(t), t)
    assert learned.tolist() == pytest.approx((0.1 + t / (1 + t)).log().tolist(), abs=0.15)
    assert LearnedUncertainty()(torch.ones(3), schedule.scales(torch.ones(3)), denoiser).tolist() == [1, 1, 1]


# --- Couplings


def test_offset_noise_shares_a_constant_within_each_channel():
    torch.manual_seed(0)
    eps = Offset(strength=0.5)(torch.zeros(2000, 3, 8, 8))
    means = eps.mean((2, 3))
    assert means.var().item() == pytest.approx(0.25 + 1 / 64, abs=0.02)
    assert (eps - means[..., None, None]).var().item() == pytest.approx(1 - 1 / 64, abs=0.02)


@pytest.mark.parametrize("coupling", [Immiscible(), OptimalTransport()], ids=["immiscible", "optimal_transport"])
def test_paired_noise_is_nearer_than_independent_noise_but_the_same_noise(coupling):
    x = 2 * seeded(5, 64, 1, 2, 2)
    torch.manual_seed(0)
    paired = coupling(x)
    torch.manual_seed(0)
    independent = Independent()(x)
    assert (x - paired).square().sum() < 0.7 * (x - independent).square().sum()
    assert torch.equal(paired.flatten().sort().values, independent.flatten().sort().values)


def test_in_one_dimension_optimal_transport_is_sorting():
    x, eps = seeded(0, 50, 1), seeded(1, 50, 1)
    paired = assign_noise(x, eps, power=2)
    assert torch.equal(paired[x[:, 0].argsort(), 0], eps[:, 0].sort().values)


@pytest.mark.parametrize("coupling", [Offset(0.5), Immiscible(), OptimalTransport()], ids=lambda c: type(c).__name__)
def test_the_target_is_the_noise_that_was_added(coupling):
    """Regression of a bug elsewhere: noise permuted for x_t, but not in the target. A perfect network has no loss."""
    schedule, x = LinearSchedule(), seeded(0, 32, 1, 2, 2)

    class Perfect(nn.Module):
        def forward(self, x_t, label, cond=None):
            alpha, sigma = schedule.at(label.long() + 1, x_t)
            return (x_t - alpha * x) / sigma

    loss = Denoising(coupling=coupling)(NetworkDenoiser(Perfect(), schedule, Epsilon()), x).loss
    assert loss.max() < 1e-5


# --- Objectives


def test_edm_is_the_preconditioner_and_the_loss_of_karras_et_al():
    """c_skip, c_out, c_in, c_noise and lambda(sigma) from their table 1, with sigma_data = 0.5."""
    net, sd = Net(), 0.5
    denoiser = NetworkDenoiser(net, EDMSchedule(), EDM(sd))
    x = seeded(0, 64, 1, 4, 4)
    torch.manual_seed(3)
    terms = Denoising(times=LogNormalTimes(-1.2, 1.2))(denoiser, x)
    torch.manual_seed(3)
    t = LogNormalTimes(-1.2, 1.2)(EDMSchedule(), 64, CPU, RankShare()).t
    n = t.view(-1, 1, 1, 1) * torch.randn_like(x)
    s = t.view(-1, 1, 1, 1)
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / (s**2 + sd**2).sqrt()
    c_in = 1 / (s**2 + sd**2).sqrt()
    d = c_skip * (x + n) + c_out * net(c_in * (x + n), None)
    expected = ((s**2 + sd**2) / (s * sd) ** 2 * (d - x) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(terms.loss, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(denoiser(x + n, t).x_hat, d, rtol=1e-4, atol=1e-4)
    assert EDM(sd, label_scale=1.0).noise_label(t, torch.ones_like(t), t).tolist() == pytest.approx((t.log() / 4).tolist())
    torch.testing.assert_close(net.seen.var(), torch.tensor(x.var().item() / 0.25), rtol=1, atol=1)


class Counting(LinearSchedule):
    """Counts how often its table is read."""

    num_reads = 0

    def forward(self, t):
        self.num_reads += 1
        return super().forward(t)


# A term of the bound is about three times: t, s = t - 1, and the step before t, whose variance stands in for that of the last.
READS_OF_THE_BOUND = 3


@pytest.mark.parametrize("parameterization", [Epsilon(), V(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    ("objective", "channels", "num_reads"),
    [
        (Denoising(), 1, 1),
        (Denoising(MinSNR()), 1, 1),
        (Denoising(Sigmoid()), 1, 1),
        (Denoising(LearnedUncertainty()), 1, 1),
        (Hybrid(), 2, READS_OF_THE_BOUND),
        (Hybrid(weighting=MinSNR()), 2, READS_OF_THE_BOUND),
        (Hybrid(simple=False), 2, READS_OF_THE_BOUND),
    ],
    ids=["simple", "min_snr", "sigmoid", "learned_uncertainty", "hybrid", "hybrid-min_snr", "vlb"],
)
def test_a_training_step_reads_the_table_of_the_schedule_once_for_each_time(parameterization, objective, channels, num_reads):
    schedule = Counting()
    denoiser = NetworkDenoiser(Net(channels), schedule, parameterization)
    schedule.num_reads = 0
    objective(denoiser, seeded(0, 16, 1, 4, 4)).loss.mean().backward()
    assert schedule.num_reads == num_reads


def test_a_prediction_reads_the_table_of_the_schedule_once():
    schedule = Counting()
    denoiser = NetworkDenoiser(Net(), schedule, V())
    schedule.num_reads = 0
    denoiser(seeded(0, 16, 1, 4, 4), torch.full((16,), 500))
    assert schedule.num_reads == 1


def test_flow_regresses_the_velocity():
    net, x = Net(), seeded(0, 16, 1, 4, 4)
    torch.manual_seed(3)
    terms = Denoising()(NetworkDenoiser(net, StraightSchedule(), Velocity()), x)
    torch.manual_seed(3)
    t = torch.rand(16).view(-1, 1, 1, 1)
    eps = torch.randn_like(x)
    expected = (0.5 * ((1 - t) * x + t * eps) - (eps - x)).square().flatten(1).mean(1)
    torch.testing.assert_close(terms.loss, expected)


def hybrid_parts(objective, x):
    """(The loss, the gradients of the scales of mean and variance) on one batch."""
    net = Net(2)
    torch.manual_seed(0)
    loss = objective(NetworkDenoiser(net, LinearSchedule(), Epsilon()), x).loss.mean()
    loss.backward()
    return loss.item(), net.scale.grad.tolist()


def test_hybrid_adds_the_bound_for_the_variance_alone():
    """Nichol & Dhariwal 2021, eq. 16: the mean learns from L_simple as if the bound were not there."""
    x = seeded(0, 16, 1, 4, 4).clamp(-1, 1)
    small, (mean_small, variance_small) = hybrid_parts(Hybrid(vlb_weight=0.001), x)
    large, (mean_large, variance_large) = hybrid_parts(Hybrid(vlb_weight=0.003), x)
    assert mean_small == pytest.approx(mean_large, rel=1e-5)
    assert variance_large == pytest.approx(3 * variance_small, rel=1e-4)
    simple = large - 1.5 * (large - small)
    net = Net(1)
    torch.manual_seed(0)
    plain = Denoising()(NetworkDenoiser(net, LinearSchedule(), Epsilon()), x).loss.mean()
    assert simple == pytest.approx(plain.item(), rel=1e-4)
    _, (mean_vlb, _) = hybrid_parts(Hybrid(simple=False), x)
    assert mean_vlb != pytest.approx(mean_small, rel=0.1)


def test_hybrid_weighs_its_simple_loss_and_the_bound_stays_as_it_is():
    x = seeded(0, 16, 1, 4, 4).clamp(-1, 1)
    plain, (mean_plain, variance_plain) = hybrid_parts(Hybrid(), x)
    assert hybrid_parts(Hybrid(weighting=UniformWeighting()), x) == (plain, [mean_plain, variance_plain])
    weighted, (_, variance) = hybrid_parts(Hybrid(weighting=MinSNR(0.1)), x)
    torch.manual_seed(0)
    simple = Denoising()(NetworkDenoiser(Net(1), LinearSchedule(), Epsilon()), x).loss.mean().item()
    torch.manual_seed(0)
    simple_weighted = Denoising(MinSNR(0.1))(NetworkDenoiser(Net(1), LinearSchedule(), Epsilon()), x).loss.mean().item()
    assert variance == pytest.approx(variance_plain)
    assert weighted - plain == pytest.approx(simple_weighted - simple, rel=1e-4)
    assert abs(weighted - plain) > 0.1 * simple


def test_the_bound_alone_takes_no_weighting():
    with pytest.raises(
        ValueError,
        match=r"^need UniformWeighting with simple=False, .* got MinSNR; with simple=True it is the weighting of L_simple$",
    ):
        Hybrid(simple=False, weighting=MinSNR())
    Hybrid(simple=False, weighting=UniformWeighting())


def test_the_bound_counts_every_step_as_one_of_t():
    schedule, x, net = LinearSchedule(), seeded(0, 16, 1, 4, 4).clamp(-1, 1), Net(2)
    torch.manual_seed(0)
    terms = Hybrid(vlb_weight=0.001, simple=False)(NetworkDenoiser(net, schedule, Epsilon()), x)
    torch.manual_seed(0)
    t = schedule.time(torch.rand(16))
    batch = schedule.noised(x, t, torch.randn_like(x))
    y = 0.5 * batch.x_t
    prediction = Prediction(*Epsilon().invert(y, batch.x_t, *schedule.at(t, x)), (y + 1) / 2)
    bits = bound_term(schedule, prediction, batch, t - 1, "learned") / math.log(2)
    torch.testing.assert_close(terms.loss, bits, rtol=1e-5, atol=1e-6)  # 0.001 * 1000 steps


@pytest.mark.parametrize(
    ("objective", "channels", "schedule", "message"),
    [
        (Hybrid(), 1, LinearSchedule(), r"2 output channels, this one has 1$"),
        (Hybrid(), 2, EDMSchedule(), r"EDMSchedule is not one$"),
        (Denoising(), 2, LinearSchedule(), r"which Denoising would leave untrained$"),
        (Denoising(), 3, LinearSchedule(), r"need a network whose output is \[2, 1, 4, 4\].*got \[2, 3, 4, 4\]"),
    ],
)
def test_objectives_refuse_a_network_or_schedule_that_does_not_fit(objective, channels, schedule, message):
    with pytest.raises(ValueError, match=message):
        objective(NetworkDenoiser(Net(channels), schedule, X()), torch.zeros(2, 1, 4, 4))
