"""Which times are drawn, and how often."""

import pytest
import torch

from alphabar.diffusion.noise import RankShare
from alphabar.diffusion.objectives.times import ImportanceTimes, LaplaceTimes, LogitNormalTimes, LogNormalTimes, UniformTimes
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule

CPU = torch.device("cpu")


def draw(times, schedule, num=20_000, share=RankShare()):
    torch.manual_seed(0)
    return times(schedule, num, CPU, share)


def test_uniform_times_are_uniform():
    t, level, weight = draw(UniformTimes(), LinearSchedule(num_steps=10))
    assert torch.bincount(t, minlength=11)[1:].tolist() == pytest.approx([2000] * 10, abs=200)
    assert torch.equal(t, (10 * level).long() + 1)
    assert (weight == 1).all()


def test_log_normal_times_have_the_mean_and_width_of_edm():
    t, level, _ = draw(LogNormalTimes(-1.2, 1.2), EDMSchedule())
    assert t.log().mean().item() == pytest.approx(-1.2, abs=0.03)
    assert t.log().std().item() == pytest.approx(1.2, abs=0.03)
    assert 0 <= level.min() <= level.max() <= 1
    alpha, sigma = StraightSchedule()(draw(LogNormalTimes(-1.2, 1.2), StraightSchedule()).t)
    assert (sigma / alpha).log().mean().item() == pytest.approx(-1.2, abs=0.03)


def test_laplace_times_have_a_laplace_density_of_log_snr():
    alpha, sigma = ShiftedCosineSchedule(64)(draw(LaplaceTimes(1.0, 0.5), ShiftedCosineSchedule(64)).t)
    log_snr = 2 * (alpha / sigma).log()
    assert log_snr.median().item() == pytest.approx(1.0, abs=0.02)
    assert (log_snr - 1).abs().mean().item() == pytest.approx(0.5, abs=0.02)  # E |x - mu| is the scale


def test_logit_normal_times_pile_up_in_the_middle():
    t = draw(LogitNormalTimes(0.0, 1.0), StraightSchedule()).t
    logit = (t / (1 - t)).log()
    assert [logit.mean().item(), logit.std().item()] == pytest.approx([0, 1], abs=0.03)
    steps = draw(LogitNormalTimes(0.0, 1.0), LinearSchedule()).t
    assert ((steps > 250) & (steps <= 750)).float().mean().item() == pytest.approx(0.728, abs=0.02)  # P(|N| < ln 3)


def test_the_shift_of_sd3_moves_times_towards_noise():
    level = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    schedule = StraightSchedule(shift=3.0)
    assert schedule.time(level).tolist() == pytest.approx([0, 0.5, 0.75, 1])
    torch.testing.assert_close(schedule.level(schedule.time(level)), level)


@pytest.mark.parametrize("times", [LogNormalTimes(), LaplaceTimes()])
def test_a_density_of_sigma_is_refused_on_a_table(times):
    with pytest.raises(ValueError, match=r"undefined on the table of LinearSchedule$"):
        draw(times, LinearSchedule())


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("times", [UniformTimes, LogitNormalTimes, LogNormalTimes])
def test_stratified_times_cover_every_stratum_once_over_all_processes(times, world_size):
    schedule = EDMSchedule() if times is LogNormalTimes else StraightSchedule()
    parts = [draw(times(stratified=True), schedule, 32, RankShare(rank, world_size, seed=7)).t for rank in range(world_size)]
    t = torch.cat(parts).double()
    quantile = {
        UniformTimes: t,
        LogitNormalTimes: torch.special.ndtr((t / (1 - t)).log()),
        LogNormalTimes: torch.special.ndtr((t.log() + 1.2) / 1.2),
    }[times]
    gaps = quantile.sort().values.diff()
    assert gaps.tolist() == pytest.approx([1 / (32 * world_size)] * (32 * world_size - 1), rel=1e-2)
    other = draw(times(stratified=True), schedule, 32, RankShare(0, world_size, seed=8)).t
    assert not torch.equal(parts[0], other)


def test_stratified_times_lower_the_variance_of_the_loss_and_keep_its_mean():
    def estimates(stratified):
        torch.manual_seed(0)
        times = UniformTimes(stratified)
        return torch.stack([times(StraightSchedule(), 16, CPU, RankShare()).t.square().mean() for _ in range(400)])

    plain, even = estimates(False), estimates(True)
    assert even.mean().item() == pytest.approx(1 / 3, abs=0.005)
    assert even.std() < plain.std() / 4


def test_importance_sampling_finds_where_the_loss_is_large_and_stays_unbiased():
    times, schedule = ImportanceTimes(num_bins=20), LinearSchedule(num_steps=20)
    loss_of = lambda t: 1 / t.double()  # noqa: E731
    torch.manual_seed(0)
    for _ in range(60):
        t, level, weight = times(schedule, 64, CPU, RankShare())
        assert (times.counts >= 10).all() or times.probabilities().tolist() == pytest.approx([0.05] * 20)
        times.observe(level, loss_of(t))
    p = times.probabilities()
    expected = loss_of(torch.arange(1, 21)) / loss_of(torch.arange(1, 21)).sum()
    assert p.tolist() == pytest.approx(expected.tolist(), rel=0.05, abs=1e-3)
    t, _, weight = times(schedule, 4000, CPU, RankShare())
    assert (weight * loss_of(t)).mean().item() == pytest.approx(loss_of(torch.arange(1, 21)).mean().item(), rel=0.02)
    assert (weight * loss_of(t)).std() < 0.1 * loss_of(torch.arange(1, 21)).std()


def test_importance_sampling_remembers_the_newest_losses():
    times = ImportanceTimes(num_bins=2, num_losses=3)
    times.observe(torch.tensor([0.1, 0.9, 0.1, 0.1, 0.1, 0.1]), torch.tensor([1.0, 9.0, 2.0, 3.0, 4.0, 5.0]))
    assert sorted(times.losses[0].tolist()) == [3.0, 4.0, 5.0]
    assert times.counts.tolist() == [5, 1]


def test_a_loss_that_is_not_finite_is_not_remembered():
    times = ImportanceTimes(num_bins=2, num_losses=2)
    times.observe(torch.tensor([0.1, 0.1, 0.9, 0.9]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    times.observe(torch.tensor([0.1, 0.9, 0.9, 0.9]), torch.tensor([float("nan"), 5.0, 6.0, float("inf")]))
    assert sorted(times.losses[0].tolist()) == [1.0, 2.0]
    assert times.losses[1].tolist() == [3.0, 6.0]  # the slot whose newest is infinite stays as it was
    assert draw(times, LinearSchedule()).weight.isfinite().all()
