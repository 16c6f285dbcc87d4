"""`python evaluate.py metric=bpd`, from a checkpoint to figures."""

import importlib
import math
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import runs
from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App
from alphabar.data.sources.digits import DigitsSource
from alphabar.diffusion.likelihood import bits_of_density, dequantised, flow_times, probability_flow, rademacher, variational_bound
from alphabar.diffusion.noise import ImageNoise, derive_seed
from alphabar.diffusion.thresholdings import Static, Thresholded
from alphabar.evaluation import receipt
from alphabar.sampling.model import load_model

TRAINED = {
    "ddpm": ("method=ddpm",),
    "improved_ddpm": ("method=improved_ddpm", "schedule.num_steps=40"),
    "edm": ("method=edm",),
}
BPD = ("metric=bpd", "weights=raw", "accelerator=cpu", "num=6", "batch_size=4", "bpd_steps=4")


@pytest.fixture(scope="module")
def trained():
    """The checkpoints of runs of two steps."""
    return {name: runs.trained(*runs.BRIEF, *words) / "checkpoints" / "last.ckpt" for name, words in TRAINED.items()}


def call(patch, script, *words):
    """A command in this process, away from the repository; its exit code."""
    GlobalHydra.instance().clear()
    patch.setattr(sys, "argv", [f"{script}.py", *words])
    return execute(importlib.import_module(script).main.__wrapped__, App(runs.ROOT / "conf", script))


def figures(folder):
    found = receipt.read_receipt(folder)
    return runs.figures(folder) | found.diagnostics["standard_errors"]


def by_hand(file, variance, probes=1):
    """The two likelihoods of the first six held-out digits, image by image."""
    loaded = load_model(file, "raw")
    denoiser = loaded.model.denoiser
    x = loaded.model.codec.encode(DigitsSource().held_out().images(range(6)))
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
    assert set(found) == {f"bpd/{name}{what}" for name in names for what in ("", "-standard_error")}
    for name, bits in zip(names, by_hand(trained[method], variance, 2 if "probes=2" in words else 1), strict=True):
        assert found[f"bpd/{name}"] == pytest.approx(bits.mean().item(), rel=1e-5)
        assert found[f"bpd/{name}-standard_error"] == pytest.approx(bits.std().item() / math.sqrt(6), rel=1e-3)
        assert f"bpd/{name}\n" in printed


def test_a_name_contains_the_settings_that_are_not_the_default(monkeypatch, tmp_path, trained):
    """All terms, as the schedule has fewer than 100; probes; and what is not as published."""
    words = ("num=2", "probes=2", "thresholding=none")
    assert call(monkeypatch, "evaluate", f"checkpoint={trained['improved_ddpm']}", *BPD, *words, f"hydra.run.dir={tmp_path}") == 0
    bound, flow = runs.figures(tmp_path)
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
        ("ddpm", ["sampler=heun"], ["sampler=heun: nothing takes sampler here", "metric, paths, speed, thresholding"]),
        ("ddpm", ["num=0"], ["need num >= 1", "num=0"]),
        ("ddpm", ["variance=wide"], ["variance: expected", "posterior, beta, learned", "'wide'"]),
        ("ddpm", ["variance=learned"], ["variance=learned: this network has learned none"]),
        ("ddpm", ["probes=0"], ["need probes >= 1, got probes=0"]),
        ("ddpm", ["bpd_steps=0"], ["need bpd_steps >= 1, got bpd_steps=0"]),
        ("ddpm", ["bpd_terms=0"], ["need bpd_terms >= 1, got bpd_terms=0"]),
        ("ddpm", ["precision=bf16-mixed"], ["likelihoods need precision=32-true, got precision=bf16-mixed"]),
        ("ddpm", ["data_root=nowhere"], ["data_root=nowhere: this checkpoint was trained on data without a root"]),
        ("edm", ["bpd_terms=7"], ["bpd_terms=7: only a discrete schedule has a bound, EDMSchedule is not one"]),
        ("edm", ["thresholding=dynamic"], ["thresholding=dynamic: only a discrete schedule has a bound"]),
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
