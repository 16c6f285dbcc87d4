import pytest
import torch
from torch.overrides import TorchFunctionMode

from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.parameterizations import Velocity
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.diffusion.samplers.interpolation import slerp
from alphabar.diffusion.samplers.unipc import UniPC
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.schedules.straight import StraightSchedule
from alphabar.diffusion.thresholdings import Dynamic, Static
from oracle import GaussianDenoiser, seeded


def test_the_oracle_would_notice_a_wrong_variance():
    """DDPM that forgets its noise collapses: the bound of the test above is not too wide."""
    denoiser = GaussianDenoiser(LinearSchedule(), mean=0.3, std=0.5)
    x = DDPM().sample(denoiser, seeded(0, 20_000), noise=torch.zeros_like)
    assert abs(x.std().item() - 0.5) > 0.1


def test_ddim_with_eta_1_over_all_steps_is_ddpm_with_the_posterior_variance():
    denoiser = GaussianDenoiser(LinearSchedule(num_steps=200), mean=0.3, std=0.5)
    x_T, indices = seeded(0, 8, 3), range(8)
    ddpm = DDPM().sample(denoiser, x_T, noise=ImageNoise(0, indices))
    ddim = DDIM(num_steps=None, eta=1.0).sample(denoiser, x_T, noise=ImageNoise(0, indices))
    torch.testing.assert_close(ddim, ddpm, rtol=1e-3, atol=1e-4)


def test_a_trajectory_has_every_time_of_its_grid():
    denoiser = GaussianDenoiser(LinearSchedule(), mean=0.0, std=0.5)
    x_T = seeded(0, 2, 3)
    states = list(DDIM(num_steps=10).trajectory(denoiser, x_T))
    assert len(states) == 11
    assert torch.equal(states[0], x_T)
    by_hand = DDIM(num_steps=10).sample(denoiser, x_T, times=torch.tensor([1000, 700, 100, 0]))
    assert not torch.equal(by_hand, states[-1])


@pytest.mark.parametrize("clip", [True, False])
def test_clipping_keeps_samples_in_the_data_range(clip):
    denoiser = GaussianDenoiser(LinearSchedule(), mean=0.8, std=0.5)
    x = DDIM(num_steps=20, thresholding=Static() if clip else None).sample(denoiser, seeded(0, 1000))
    assert (x.abs().max() <= 1) == clip


@pytest.mark.parametrize("sampler", [DDPM, DDIM, Euler, Heun, DPMpp2M, UniPC])
def test_a_sampler_reaches_data_outside_of_the_range_of_images_unless_it_clips(sampler):
    """Data at 3 and an exact denoiser: samples are at 3, and at 1 with static thresholding."""
    denoiser = GaussianDenoiser(LinearSchedule(), mean=3.0, std=0.1)
    x = sampler(num_steps=30).sample(denoiser, seeded(0, 200))
    assert x.mean().item() == pytest.approx(3, abs=0.05)
    clipped = sampler(num_steps=30, thresholding=Static()).sample(denoiser, seeded(0, 200))
    assert clipped.max().item() == pytest.approx(1)


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
        (DDIM(thresholding=Static()), "ddim50"),
        (DDIM(num_steps=None, eta=0.5, thresholding=Static()), "ddim1000-eta0.5"),
        (DDPM(), "ddpm1000-nothresholding"),
        (DDPM(num_steps=20, variance="beta"), "ddpm20-nothresholding-variancebeta"),
        (DDIM(thresholding=Dynamic(0.9)), "ddim50-dynamic-quantile0.9"),
    ],
)
def test_a_label_contains_the_settings_that_change_a_figure(sampler, label):
    assert sampler.label(LinearSchedule()) == label


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_remembers_no_more_than_its_order(order):
    """Regression: all of the trajectory stayed in memory."""
    sampler, denoiser = UniPC(num_steps=8, order=order), GaussianDenoiser(LinearSchedule(), mean=0.3, std=0.5)
    times = sampler.times(denoiser.schedule)
    run, x = sampler.begin(denoiser, None, torch.randn_like, times), seeded(0, 2, 3)
    for index in range(8):
        run.index = index
        x = sampler.step(run, x, times[index].expand(2), times[index + 1].expand(2))
        assert len(run.memory) == min(order, index + 1)


class Apple(torch.Tensor):
    """Stands for a tensor on one of Apple's GPUs."""


class NoFloat64(TorchFunctionMode):
    """Lets `Apple` tensors say that they are on the device mps, and refuses to make float64 of them, as that device does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func == torch.Tensor.device.__get__ and isinstance(args[0], Apple):
            return torch.device("mps")
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        given = [*args[1:], *kwargs.values()]
        if func is torch.Tensor.to and any(each == torch.device("mps") or isinstance(each, Apple) for each in given):
            dtypes = [each if isinstance(each, torch.dtype) else each.dtype for each in given if not isinstance(each, torch.device)]
            moved = args[0].as_subclass(torch.Tensor).to(*dtypes) if dtypes else args[0]
            return self._checked(moved.as_subclass(Apple))
        return self._checked(func(*args, **kwargs))

    def _checked(self, made):
        if isinstance(made, Apple) and made.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return made


def test_apples_gpus_which_have_no_float64_are_not_asked_for_it():
    schedule = LinearSchedule(num_steps=20)
    start, end = seeded(0, 2, 1, 4, 4), seeded(1, 2, 1, 4, 4)
    sampler, denoiser = DPMpp2M(num_steps=5), GaussianDenoiser(schedule, 0.3, 0.5)
    between, drawn = slerp(start, end, 0.3), sampler.sample(denoiser, start)
    with NoFloat64():
        for name, buffer in schedule.named_buffers():
            setattr(schedule, name, buffer.as_subclass(Apple))
        start, end = start.as_subclass(Apple), end.as_subclass(Apple)
        assert start.device.type == "mps"
        with pytest.raises(TypeError, match="MPS"):
            start.double()
        torch.testing.assert_close(slerp(start, end, 0.3).cpu(), between)
        torch.testing.assert_close(sampler.sample(denoiser, start).cpu(), drawn)
        assert schedule.time_of(schedule.sigma[5:6] / schedule.alpha[5:6]).cpu().tolist() == [5]
        assert schedule.snap(torch.tensor([9.0, 4.0]).as_subclass(Apple)).cpu().tolist() == [9, 4, 0]
        assert len(schedule.ratios()) == 20


class Precise(torch.nn.Module):
    """A network of one weight that keeps the types of what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = set()
        self.level = torch.nn.Linear(1, 1)

    def forward(self, x, label, cond=None):
        self.seen.add((x.dtype, label.dtype))
        return x * self.level(label[:, None].to(self.level.weight) if x.dtype == torch.float64 else label[:, None])


@pytest.mark.parametrize(
    ("dtype", "label"), [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)]
)
def test_a_network_is_given_labels_in_single_precision_or_better_whatever_the_times_are(dtype, label):
    network = Precise()
    denoiser = NetworkDenoiser(network, StraightSchedule(), Velocity())
    Euler(num_steps=3).sample(denoiser, seeded(0, 2, 3).to(dtype))
    assert network.seen == {(dtype, label)}
