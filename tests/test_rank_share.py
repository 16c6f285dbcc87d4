"""Random numbers of the rows of a batch do not depend on how many processes share it."""

import pytest
import torch

import runs
from alphabar.diffusion import noise
from alphabar.diffusion.noise import RankShare
from alphabar.diffusion.objectives.times import ImportanceTimes, LogitNormalTimes, UniformTimes
from alphabar.diffusion.schedules.straight import StraightSchedule

CPU = torch.device("cpu")


def draws(share, num):
    """Returns what a step of training draws: times and noise, for `num` rows."""
    times = [
        times(StraightSchedule(), num, CPU, share).t
        for times in (UniformTimes(), UniformTimes(stratified=True), LogitNormalTimes(), ImportanceTimes(num_bins=5))
    ]
    return [*times, share.randn((num, 3, 2), CPU), share.rand(num, CPU), share.randn_like(torch.empty(num, 1, dtype=torch.float64))]


@pytest.mark.parametrize("block", [512, 16, 10])
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_have_the_rows_of_the_whole_batch(monkeypatch, world_size, block):
    monkeypatch.setattr(noise, "BLOCK", block)
    whole = draws(RankShare(seed=5), 48)
    parts = [draws(RankShare(rank, world_size, 5), 48 // world_size) for rank in range(world_size)]
    for expected, *rows in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat(rows), expected, rtol=1e-6, atol=0)  # functions of them differ in the last bit
        assert len(expected.flatten(1 if expected.ndim > 1 else 0).unique(dim=0)) == 48
    assert not torch.equal(whole[0], draws(RankShare(seed=6), 48)[0])


def test_no_more_than_the_blocks_of_its_rows_are_drawn(monkeypatch):
    monkeypatch.setattr(noise, "BLOCK", 16)
    drawn = []

    def make(num, generator):
        drawn.append(num)
        return torch.rand(num, generator=generator)

    RankShare(rank=3, world_size=64, seed=0).draw(make, 8, CPU)
    assert drawn == [16]


@pytest.mark.parametrize(
    "words", [(), ("conditioner=class_label", "times=logit_normal", "times.stratified=true")], ids=["plain", "classes"]
)
def test_two_processes_that_share_a_batch_have_the_losses_of_one(tmp_path, words):
    """To the tolerance of floats, which are summed in another order; dropout inside a network is left out of the promise."""
    curves = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        shape = (f"trainer.devices={devices}", f"data.batch_size={64 // devices}", "trainer.accelerator=cpu")
        brief = ("trainer.max_steps=12", "trainer.log_every_n_steps=1", *runs.BRIEF[1:], "callbacks.held_out_loss=null")
        code, _, err = runs.run("train.py", *runs.words(*words, *brief, *shape, folder=folder), cwd=tmp_path)
        assert code == 0, err
        curves.append(
            [
                (float(row["train/loss"]), float(row["train/grad_norm"]))
                for row in runs.table(folder / "metrics.csv")
                if row["train/loss"]
            ]
        )
    assert len(curves[0]) >= 12
    for one, two in zip(*curves, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
