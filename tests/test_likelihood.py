"""The density under the probability-flow ODE against closed forms, and `evaluate.py metric=bpd` from end to end."""

import importlib
import json
import math
import sys
from itertools import pairwise

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn

import runs
from alphabar.diffusion.denoiser import Denoiser, NetworkDenoiser, Prediction
from alphabar.diffusion.likelihood import (
    bits_of_density,
    dequantised,
    flow_times,
    probability_flow,
    rademacher,
    variational_bound,
)
from alphabar.diffusion.noise import ImageNoise, derive_seed
from alphabar.diffusion.parameterizations import V
from alphabar.diffusion.schedules.edm import EDMSchedule
from alphabar.diffusion.schedules.from_alpha_bar import CosineSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.thresholdings import Static, Thresholded
from alphabar.training.app import App
from alphabar.training.checkpoint import load
from alphabar.training.cli import execute
from alphabar.training.data.digits import DigitsSource
from oracle import GaussianDenoiser, MixtureDenoiser, seeded
from test_oracle import SCHEDULES as ORACLE_SCHEDULES

SCHEDULES = ORACLE_SCHEDULES | {"linear-50": LinearSchedule(50, 1e-3, 0.3)}
MEAN, STD = 0.3, 0.25


def signs(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)


def log_normal(z, mean, variance):
    return -0.5 * ((z - mean) ** 2 / variance + torch.log(2 * math.pi * variance))


def ends(schedule, times):
    """(alpha, sigma) of the first time after data and of the last, float64."""
    for t in (times[-2], times[0]):
        alpha, sigma = schedule(t.double() if times.is_floating_point() else t)
        yield alpha.double(), sigma.double()


def density(schedule, x, num_steps, denoiser=None):
    times = flow_times(schedule, num_steps)
    denoiser = denoiser or GaussianDenoiser(schedule, MEAN, STD)
    return times, probability_flow(denoiser, x, None, times, rademacher(signs(), x, 1))


def closed_form(schedule, times, x):
    """log p [B] where the data is N(MEAN, STD^2): the ODE maps each of its quantiles to the same one of x_T, which p sees as normal.

    p(x_T) is N(0, alpha_T^2 + sigma_T^2), from which the true x_T differs a little.
    """
    (alpha, sigma), (alpha_T, sigma_T) = ends(schedule, times)
    std, std_T = (alpha**2 * STD**2 + sigma**2).sqrt(), (alpha_T**2 * STD**2 + sigma_T**2).sqrt()
    x_T = alpha_T * MEAN + std_T / std * alpha * (x - MEAN)
    return (log_normal(x_T, torch.zeros(()), alpha_T**2 + sigma_T**2) + torch.log(alpha * std_T / std)).sum(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_density_of_gaussian_data_is_that_in_closed_form(schedule, dtype):
    """400 steps, to 5e-4 nats per dimension (seen: 3e-4); on a schedule that has no more than 50 it is 0.01."""
    x = (MEAN + STD * seeded(0, 64, 5, dtype=torch.float64)).to(dtype)
    times, log_p = density(schedule, x, 400)
    error = (log_p - closed_form(schedule, times, x)).abs().max() / 5
    assert error < (5e-4 if len(times) > 100 else 0.015)


@pytest.mark.parametrize("name", ["edm", "straight", "shifted_cosine"])
def test_the_error_falls_with_the_square_of_the_steps(name):
    schedule, x = SCHEDULES[name], MEAN + STD * seeded(0, 64, 5, dtype=torch.float64)
    errors = []
    for num_steps in (25, 50, 100):
        times, log_p = density(schedule, x, num_steps)
        errors.append((log_p - closed_form(schedule, times, x)).abs().mean().item())
    for coarse, fine in pairwise(errors):
        assert 3 < coarse / fine < 5.5


@pytest.mark.parametrize("name", ["linear", "cosine", "edm", "straight", "shifted_cosine"])
def test_the_density_of_a_mixture_is_that_in_closed_form(name):
    """0.3 N(-0.6, 0.15^2) + 0.7 N(0.5, 0.2^2), with the noise of the first time; 400 steps. It integrates to one.

    The density is 0.9 at most and off by 1e-3 at most, twice that on the EDM schedule, in whose x_T the data still shows."""
    schedule = SCHEDULES[name]
    weights, means, stds = (torch.tensor([values], dtype=torch.float64) for values in ((0.3, 0.7), (-0.6, 0.5), (0.15, 0.2)))
    x = torch.linspace(-1.5, 1.6, 311, dtype=torch.float64)[:, None]
    times, log_p = density(schedule, x, 400, MixtureDenoiser(schedule, weights, means, stds))
    (alpha, sigma), _ = ends(schedule, times)
    expected = torch.logsumexp(weights.log() + log_normal(x, means, stds**2 + (sigma / alpha) ** 2), 1)
    assert torch.trapezoid(log_p.exp(), x[:, 0]).item() == pytest.approx(1, abs=2e-3)
    assert (log_p.exp() - expected.exp()).abs().max() < (3e-3 if name == "edm" else 1.5e-3)


class CorrelatedDenoiser(Denoiser):
    """E[x | x_t] for data N(0, covariance): its Jacobian is not diagonal, so that a trace takes more than one probe."""

    def __init__(self, schedule, covariance):
        super().__init__()
        self.schedule = schedule
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.schedule.at(t, x_t)
        x_hat = (x_t @ self.vectors * alpha * self.values / (alpha**2 * self.values + sigma**2)) @ self.vectors.T
        return Prediction(x_hat, (x_t - alpha * x_hat) / sigma)


def test_probes_estimate_the_trace_without_bias():
    """With sqrt(D) e_i for probes the trace is exact; with 1 and -1 it is right on average, to four standard errors of 0.03."""
    schedule, num = SCHEDULES["edm"], 2000
    covariance = 0.06 * torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.2, 0.5], [0.3, 0.5, 0.7]], dtype=torch.float64)
    denoiser, times = CorrelatedDenoiser(schedule, covariance), flow_times(schedule, 200)
    x = torch.tensor([[0.2, -0.1, 0.3]], dtype=torch.float64)
    basis = math.sqrt(3) * torch.eye(3, dtype=torch.float64)[:, None]
    exact = probability_flow(denoiser, x, None, times, basis)
    normal = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance + 0.002**2 * torch.eye(3).double())
    assert exact.item() == pytest.approx(normal.log_prob(x).item(), abs=6e-3)
    many = x.expand(num, 3)
    one, four = (probability_flow(denoiser, many, None, times, rademacher(signs(), many, probes)) for probes in (1, 4))
    for estimate in (one, four):
        standard_error = estimate.std() / math.sqrt(num)
        assert 0 < standard_error < 0.04
        assert (estimate.mean() - exact).abs() < 4 * standard_error
    assert four.std().item() == pytest.approx(one.std().item() / 2, rel=0.15)


class Wave(nn.Module):
    """Any smooth network."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(seeded(5, 8, 8) / 4)

    def forward(self, x, label, cond=None):
        return torch.sin(3 * x @ self.mix + label.view(-1, 1, 1, 1).float() / 200)


def test_an_image_has_its_own_likelihood_whatever_it_is_measured_with():
    """Without gradients outside, of frozen weights, alone or among others; and nothing is left behind at the weights."""
    denoiser = NetworkDenoiser(Wave(), CosineSchedule(60), V()).eval().requires_grad_(False)
    x, times = seeded(0, 5, 1, 8, 8).clamp(-1, 1), flow_times(denoiser.schedule, 12)

    def measure(indices):
        noise = ImageNoise(7, indices)
        rows = x[indices]
        flow = probability_flow(denoiser, rows, None, times, rademacher(noise, rows, 2))
        return flow, variational_bound(denoiser, rows, None, "beta", noise, num_terms=9)

    with torch.no_grad():
        together = measure([0, 1, 2, 3, 4])
        apart = measure([3, 1])
        for all_of_them, some in zip(together, apart, strict=True):
            assert not some.requires_grad
            torch.testing.assert_close(some, all_of_them[[3, 1]], rtol=1e-4, atol=1e-4)
            assert len(set(all_of_them.tolist())) == 5
    assert denoiser.network.mix.grad is None


def test_dequantised_bytes_fill_their_grey_level():
    x = (torch.arange(256) / 127.5 - 1).repeat(50)[:, None]
    off = (dequantised(x, signs()) - x) * 127.5
    assert off.min() > -0.5001
    assert off.max() < 0.5001
    assert off.mean().item() == pytest.approx(0, abs=0.01)
    assert off.std().item() == pytest.approx(12**-0.5, abs=0.01)


@pytest.mark.parametrize("num_dims", [1, 192])
def test_a_density_that_tells_nothing_takes_eight_bits(num_dims):
    """256 grey levels as broad as 2/255, all as likely."""
    log_p = torch.tensor([-num_dims * math.log(256 * 2 / 255)], dtype=torch.float64)
    assert bits_of_density(log_p, num_dims).item() == pytest.approx(8)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_the_flow_goes_from_the_first_noise_to_the_last(schedule, num_steps):
    times = flow_times(schedule, num_steps)
    assert len(times) == (min(num_steps, schedule.num_steps - 1) if schedule.is_discrete else num_steps) + 2
    assert (times.diff() < 0).all()
    assert times[0] == schedule.time(torch.ones((), dtype=torch.float64))
    first, _ = schedule.noise_range()
    (alpha, sigma), _ = ends(schedule, times)
    assert (sigma / alpha).item() == pytest.approx(first or 0.002, rel=1e-6)


def test_a_flow_without_steps_is_refused():
    with pytest.raises(ValueError, match="need num_steps >= 1"):
        flow_times(EDMSchedule(), 0)


TRAINED = {
    "ddpm": ("method=ddpm",),
    "improved_ddpm": ("method=improved_ddpm", "schedule.num_steps=40"),
    "edm": ("method=edm",),
}
BPD = ("metric=bpd", "weights=raw", "accelerator=cpu", "num=6", "batch_size=4", "bpd_steps=4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoints of runs of two steps."""
    patch, cwd, files = pytest.MonkeyPatch(), tmp_path_factory.mktemp("trained"), {}
    patch.chdir(cwd)
    for name, words in TRAINED.items():
        brief = (
            "trainer.max_steps=2",
            "callbacks.fid=null",
            "callbacks.samples=null",
            "callbacks.film=null",
            "callbacks.curves=null",
        )
        assert call(patch, "train", *runs.words(*words, *brief, folder=cwd / name, tiny=TINY)) == 0
        files[name] = cwd / name / "checkpoints" / "last.ckpt"
    patch.undo()
    return files


TINY = tuple(word for word in runs.TINY if not word.startswith(("callbacks.samples", "callbacks.film", "callbacks.fid")))


def call(patch, script, *words):
    """A command in this process, away from the repository; its exit code."""
    GlobalHydra.instance().clear()
    patch.setattr(sys, "argv", [f"{script}.py", *words])
    return execute(importlib.import_module(script).main.__wrapped__, App(runs.ROOT / "conf", script))


def figures(folder):
    return json.loads((folder / "figures.json").read_text())["figures"]


def by_hand(file, variance, probes=1):
    """The two likelihoods of the first six held-out digits, image by image."""
    loaded = load(file, "raw")
    denoiser = loaded.module.denoiser
    x = loaded.module.codec.encode(DigitsSource().held_out().images(range(6)))
    times, bounds, flows = flow_times(denoiser.schedule, 4), [], []
    for index in range(6):
        row = x[index : index + 1]
        noise = ImageNoise(derive_seed("flow", 1), [index])
        full = dequantised(row, noise)
        flows.append(bits_of_density(probability_flow(denoiser, full, None, times, rademacher(noise, full, probes)), 64))
        if variance is not None:
            noise = ImageNoise(derive_seed("bound", 1), [index])
            seen = Thresholded(denoiser, Static())
            bounds.append(variational_bound(seen, row, None, variance, noise, num_terms=5) / math.log(2))
    return [torch.cat(values) for values in (bounds, flows) if values]


@pytest.mark.parametrize(
    ("method", "words", "variance", "names"),
    [
        ("ddpm", ["bpd_terms=5"], "beta", ["vlb-n6-heldout-raw-beta1000-terms5", "ode-n6-heldout-raw-heun4-probes1"]),
        ("ddpm", ["bpd_terms=5", "variance=posterior", "probes=2"], "posterior", ["vlb-n6-heldout-raw-posterior1000-terms5", "ode-n6-heldout-raw-heun4-probes2"]),
        ("improved_ddpm", ["bpd_terms=5"], "learned", ["vlb-n6-heldout-raw-learned40-terms5", "ode-n6-heldout-raw-heun4-probes1"]),
        ("edm", [], None, ["ode-n6-heldout-raw-heun4-probes1"]),
    ],
)  # fmt: skip
def test_the_command_measures_held_out_images(monkeypatch, tmp_path, capsys, trained, method, words, variance, names):
    """Means and standard errors under names that say how; equal to what each image has by itself."""
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "evaluate", f"checkpoint={trained[method]}", *BPD, *words, f"hydra.run.dir={tmp_path / 'out'}") == 0
    found, printed = figures(tmp_path / "out"), capsys.readouterr().out
    assert list(found) == [f"bpd/{name}{what}" for name in names for what in ("", "-standard_error")]
    for name, bits in zip(names, by_hand(trained[method], variance, 2 if "probes=2" in words else 1), strict=True):
        assert found[f"bpd/{name}"] == pytest.approx(bits.mean().item(), rel=1e-5)
        assert found[f"bpd/{name}-standard_error"] == pytest.approx(bits.std().item() / math.sqrt(6), rel=1e-3)
        assert f"bpd/{name}  " in printed


def test_a_name_says_what_else_there_is(monkeypatch, tmp_path, trained):
    """All terms, as the schedule has fewer than 100; probes; and what is not as published."""
    words = ("num=2", "probes=2", "thresholding=none")
    assert call(monkeypatch, "evaluate", f"checkpoint={trained['improved_ddpm']}", *BPD, *words, f"hydra.run.dir={tmp_path}") == 0
    bound, _, flow, _ = figures(tmp_path)
    assert bound == "bpd/vlb-n2-heldout-raw-learned40-nothresholding"
    assert flow == "bpd/ode-n2-heldout-raw-heun4-probes2"


def test_two_processes_find_what_one_does(monkeypatch, tmp_path, trained):
    """Seven images: one of the two has one more than the other, and none counts twice."""
    words = (f"checkpoint={trained['ddpm']}", *BPD, "num=7", "bpd_terms=5")
    assert call(monkeypatch, "evaluate", *words, f"hydra.run.dir={tmp_path / 'one'}") == 0
    code, _, err = runs.run("evaluate.py", *words, "devices=2", f"hydra.run.dir={tmp_path / 'two'}", cwd=tmp_path)
    assert code == 0, err
    one, two = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert len(one) == 4
    assert two == {name: pytest.approx(value, rel=1e-6) for name, value in one.items()}


@pytest.mark.parametrize(
    ("method", "words", "parts"),
    [
        ("ddpm", ["num=1001"], ["need num <= 1000, the number of held-out images, got num=1001"]),
        ("ddpm", ["sampler=heun"], ["sampler=heun: nothing takes sampler here", "metric, thresholding"]),
        ("ddpm", ["num=0"], ["need num >= 1", "num=0"]),
        ("ddpm", ["variance=wide"], ["variance: expected", "posterior, beta, learned", "'wide'"]),
        ("ddpm", ["variance=learned"], ["variance=learned: this network has learned none"]),
        ("ddpm", ["probes=0"], ["need probes >= 1, got probes=0"]),
        ("ddpm", ["bpd_steps=0"], ["need bpd_steps >= 1, got bpd_steps=0"]),
        ("ddpm", ["bpd_terms=0"], ["need bpd_terms >= 1, got bpd_terms=0"]),
        ("ddpm", ["precision=bf16-mixed"], ["likelihoods need precision=32-true, got precision=bf16-mixed"]),
        ("ddpm", ["data_root=nowhere"], ["data_root=nowhere: this checkpoint was trained on data without a root"]),
        ("edm", ["variance=beta"], ["variance=beta: only a discrete schedule has a bound, EDMSchedule is not one"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_in_one_line(monkeypatch, tmp_path, capsys, trained, method, words, parts):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "evaluate", f"checkpoint={trained[method]}", *BPD, *words) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert all(part in complaint for part in parts), complaint
    assert [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()] == []
