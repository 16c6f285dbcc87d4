import logging
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

import toy
from alphabar.diffusion.denoiser import NetworkDenoiser, Output
from alphabar.diffusion.objectives.denoising import Denoising
from alphabar.diffusion.objectives.weightings import MinSNR, UniformWeighting
from alphabar.diffusion.parameterizations import EDM, Epsilon, V, Velocity, X
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.shifted_cosine import ShiftedCosineSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.models.codecs.pixels import Pixels
from alphabar.runs.processes.distributed import rank_and_size
from alphabar.training.callbacks.held_out_loss import BINS, HeldOutLoss, levels, loss_figures
from alphabar.training.modules.diffusion import DiffusionModule
from warm_process import warm_context

SYSTEMS = {
    "linear": (LinearSchedule, Epsilon()),
    "cosine": (CosineSchedule, V()),
    "zero terminal snr": (partial(LinearSchedule, zero_terminal_snr=True), X()),
    "edm": (EDMSchedule, EDM()),
    "straight": (StraightSchedule, Velocity()),
    "shifted cosine": (partial(ShiftedCosineSchedule, resolution=8), V()),
}


class Constant(nn.Module):
    """A network that always gives `value`, as variance too with `factor` 2."""

    def __init__(self, value=0.0, factor=1):
        super().__init__()
        self.value, self.factor = value, factor

    def forward(self, x, label, cond=None):
        return torch.full_like(torch.cat([x] * self.factor, dim=1), self.value)


class Exact(NetworkDenoiser):
    """Knows the data, which is everywhere the same."""

    def output(self, x_t, scales, cond=None):
        alpha, sigma = scales.like(x_t)
        x = torch.full_like(x_t, 51 / 127.5 - 1)
        return Output(self.parameterization.target(x, (x_t - alpha * x) / sigma, alpha, sigma), None)


def module_of(denoiser, objective=None, seed=0):
    return DiffusionModule(denoiser, objective or Denoising(UniformWeighting()), Pixels(), torch.optim.Adam, seed)


def callback(images, num_times=4, batch_size=128):
    """One whose bank holds all the images."""
    made = HeldOutLoss(len(images), every_n_steps=2, num_times=num_times, batch_size=batch_size)
    made.bank = [(part, {"image": images[part]}) for part in torch.arange(len(images)).split(batch_size)]
    made.num_batches = len(made.bank)
    return made


def digits(num):
    return toy.digits().held_out_set.images(range(num))


def randomised(seed=1):
    """A module whose output is not zero, unlike that of a fresh one."""
    module = toy.module().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return module


@torch.no_grad()
def sums(module, images, **arguments):
    return callback(images, **arguments).sums(module)


def fit(folder, callbacks, module=None, data=None, ckpt_path=None, **arguments):
    trainer = toy.trainer(folder, callbacks, **arguments)
    trainer.fit(module or toy.module(dropout=0.3), datamodule=data or toy.digits(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.parametrize(("schedule", "parameterization"), SYSTEMS.values(), ids=SYSTEMS)
def test_a_network_that_gives_the_target_has_no_loss_and_every_bin_has_pairs(schedule, parameterization):
    images = torch.full((512, 1, 2, 2), 51, dtype=torch.uint8)
    losses, counts = sums(module_of(Exact(Constant(), schedule(), parameterization)), images)
    assert counts.sum() == 4 * 512
    assert counts.min() >= 10
    assert losses.max() / 512 < 1e-5


@pytest.mark.parametrize("factor", [1, 2], ids=["fixed variance", "learned variance"])
def test_the_loss_of_no_prediction_is_that_of_the_noise_in_every_bin(factor):
    module = module_of(NetworkDenoiser(Constant(0.0, factor), LinearSchedule(), Epsilon()))
    figures = loss_figures("loss", sums(module, digits(512)))
    assert list(figures) == ["loss", *(f"loss_snr_{name}" for name in BINS)]
    assert figures["loss"] == pytest.approx(1.0, abs=0.01)
    assert list(figures.values()) == pytest.approx([1.0] * 7, abs=0.05)


def test_the_loss_has_no_weighting_and_is_of_the_output():
    """y = 0.5 against eps = (x_t - alpha x) / sigma: 1 + 0.25, whatever the objective and the seed of the run."""
    denoiser = NetworkDenoiser(Constant(0.5), LinearSchedule(), Epsilon())
    first = sums(module_of(denoiser), digits(64))
    other = sums(module_of(denoiser, Denoising(MinSNR(5.0)), seed=7), digits(64))
    assert torch.equal(first, other)
    assert loss_figures("loss", first)["loss"] == pytest.approx(1.25, abs=0.05)


def test_bins_are_of_the_signal_to_noise_ratio():
    """EDM has alpha = 1 and sigma^(1/7) even from 0.002 to 80: snr > 1e2 where sigma < 0.1, and so on."""
    module = module_of(NetworkDenoiser(Constant(), EDMSchedule(), EDM()))
    counts = sums(module, digits(512))[1]
    sigmas = torch.tensor([80, 10, 10**0.5, 1, 10**-0.5, 0.1, 0.002], dtype=torch.float64) ** (1 / 7)
    expected = (sigmas[:-1] - sigmas[1:]) / (sigmas[0] - sigmas[-1]) * 2048
    assert counts.tolist() == pytest.approx(expected.tolist(), abs=3)  # as even as levels can be
    assert BINS == ["0_1e-2", "1e-2_1e-1", "1e-1_1e0", "1e0_1e1", "1e1_1e2", "1e2_inf"]


def test_bins_without_pairs_are_left_out():
    module = module_of(NetworkDenoiser(Constant(), EDMSchedule(sigma_min=0.5, sigma_max=2.0), EDM()))
    assert list(loss_figures("loss", sums(module, digits(8)))) == ["loss", "loss_snr_1e-1_1e0", "loss_snr_1e0_1e1"]


def test_levels_are_even_over_the_bank_and_over_each_image():
    all_of_them = levels(torch.arange(512), 4)
    assert all_of_them.shape == (4, 512)
    assert 0 < all_of_them.min() < all_of_them.max() < 1
    gaps = all_of_them.flatten().sort().values.diff()
    assert gaps.max() < 3 / 2048
    assert gaps.min() > 0.3 / 2048
    own = all_of_them.sort(dim=0).values
    assert torch.cat([own[1:] - own[:-1], 1 + own[:1] - own[-1:]]).max() < 0.5
    assert torch.equal(levels(torch.arange(7, 99, 3), 4), all_of_them[:, 7:99:3])


def test_equal_weights_give_equal_bits_and_batches_do_not_matter():
    module, images = randomised(), digits(40)
    first = sums(module, images)
    assert torch.equal(sums(module, images), first)
    torch.testing.assert_close(sums(module, images, batch_size=7), first, rtol=1e-6, atol=0)
    assert not torch.equal(sums(randomised(seed=2), images), first)
    # The pairs of the first images stay the same when there are more.
    made = callback(images)
    some, more = (made._losses(module, torch.arange(num), {"image": images[:num]}).view(2, 4, num) for num in (10, 40))
    torch.testing.assert_close(some, more[:, :, :10], rtol=1e-5, atol=0)


def test_the_streams_of_training_stay_where_they_are():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sums(randomised(), digits(4))
    torch.manual_seed(3)
    module, images = toy.module(), digits(4)
    torch.manual_seed(3)
    sums(module, images)
    assert torch.equal(torch.get_rng_state(), before)


def shared_sums(rank, folder):
    """What two processes measure, each of which calls it."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        return {num: bank_sums(num) for num in (1, 33)}
    finally:
        dist.destroy_process_group()


def second_rank(_, folder):
    """A process of its own: the first rank is that of the test."""
    logging.disable()
    torch.set_num_threads(1)
    torch.save(shared_sums(1, folder), folder / "second.pt")


@torch.no_grad()
def bank_sums(num):
    """Of the bank that this process reads from the data itself."""
    made, module = HeldOutLoss(num, every_n_steps=1, batch_size=5), randomised()
    made.on_fit_start(SimpleNamespace(datamodule=toy.digits()), module)
    assert sum(len(part) for part, _ in made.bank) == len(range(rank_and_size()[0], num, rank_and_size()[1]))
    return made.sums(module)


def test_two_processes_measure_what_one_does(tmp_path):
    """33 images, and 1, of which the second process has none."""
    method = warm_context().get_start_method()
    second = torch.multiprocessing.start_processes(second_rank, (tmp_path,), join=False, start_method=method)
    first = shared_sums(0, tmp_path)
    second.join()
    for num, other in torch.load(tmp_path / "second.pt", weights_only=True).items():
        assert torch.equal(first[num], other)
        torch.testing.assert_close(other, bank_sums(num), rtol=1e-6, atol=0)
        assert other[1].sum() == 4 * num
