import pytest
import torch
from torch import nn

from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.parameterizations import Epsilon, Parameterization, V, X
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.thresholdings import Static, Thresholded
from oracle import seeded
from test_schedules import SCHEDULES

PARAMETERIZATIONS = {"epsilon": Epsilon(), "x": X(), "v": V()}
every_parameterization = pytest.mark.parametrize("parameterization", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS)


class Constant(nn.Module):
    """A network that outputs what it was given, and remembers what it was shown."""

    def __init__(self, output):
        super().__init__()
        self.output = output
        self.seen = None

    def forward(self, x, label, cond=None):
        self.seen = (x, label)
        return self.output


@every_parameterization
@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_inverting_the_target_gives_data_and_noise_back(parameterization, make):
    schedule = make()
    t = torch.arange(1, 1001)
    x, eps = seeded(0, 1000, 5, dtype=torch.float64), seeded(1, 1000, 5, dtype=torch.float64)
    alpha, sigma = (scale.double() for scale in schedule.at(t, x))
    x_t = alpha * x + sigma * eps
    x_hat, eps_hat = parameterization.invert(parameterization.target(x, eps, alpha, sigma), x_t, alpha, sigma)
    # Where alpha is 5e-5 (the end of cosine), x is known to 16 - 5 digits.
    torch.testing.assert_close(x_hat, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(eps_hat, eps, rtol=1e-10, atol=1e-10)


def test_epsilon_is_inverted_as_every_parameterization_to_the_bit():
    schedule, y, x_t = LinearSchedule(), seeded(0, 1000, 5), seeded(1, 1000, 5)
    scales = schedule.at(torch.arange(1, 1001), x_t)
    for found, general in zip(Epsilon().invert(y, x_t, *scales), Parameterization.invert(Epsilon(), y, x_t, *scales), strict=True):
        assert torch.equal(found, general)


def test_targets_are_what_the_papers_call_them():
    x, eps, alpha, sigma = seeded(0, 3), seeded(1, 3), torch.tensor(0.6), torch.tensor(0.8)
    assert torch.equal(Epsilon().target(x, eps, alpha, sigma), eps)
    assert torch.equal(X().target(x, eps, alpha, sigma), x)
    torch.testing.assert_close(V().target(x, eps, alpha, sigma), 0.6 * eps - 0.8 * x)


@every_parameterization
def test_a_denoiser_reads_a_perfect_network_right(parameterization):
    schedule = LinearSchedule()
    x, eps, t = seeded(0, 4, 1, 2, 2), seeded(1, 4, 1, 2, 2), torch.tensor([1, 100, 500, 900])
    network = Constant(parameterization.target(x, eps, *schedule.at(t, x)))
    x_t = schedule.q_sample(x, t, eps)
    prediction = NetworkDenoiser(network, schedule, parameterization)(x_t, t)
    torch.testing.assert_close(prediction.x_hat, x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(prediction.eps_hat, eps, rtol=1e-3, atol=1e-3)
    assert torch.equal(network.seen[0], x_t)
    assert network.seen[1].tolist() == [0, 99, 499, 899]


def test_clipping_moves_the_noise_so_that_both_still_give_x_t():
    schedule = LinearSchedule()
    x_t, t = 3 * seeded(0, 4, 1, 2, 2), torch.tensor([1, 100, 500, 900])
    x_hat, eps_hat, _ = Thresholded(NetworkDenoiser(Constant(seeded(1, 4, 1, 2, 2)), schedule, Epsilon()), Static())(x_t, t)
    alpha, sigma = schedule.at(t, x_t)
    assert x_hat.abs().max() == 1
    torch.testing.assert_close(alpha * x_hat + sigma * eps_hat, x_t)


def test_epsilon_is_refused_where_there_is_no_signal():
    schedule = LinearSchedule(zero_terminal_snr=True)
    with pytest.raises(ValueError, match=r"Epsilon does not determine x .* choose one of: X, V"):
        NetworkDenoiser(Constant(None), schedule, Epsilon())
    NetworkDenoiser(Constant(None), schedule, V())
    NetworkDenoiser(Constant(None), schedule, X())
