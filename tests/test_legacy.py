"""Files that were written before modules, classes and arguments were renamed still load; tests/legacy was made at that time.

The run: 8 steps of `conditioner=class_label guidance=classifier_free guidance.weight=2 ema=power` with a tiny UNet. The sweep: two
jobs over schedule.beta_end. run_samples.npz: what that version drew from the run's checkpoint.
"""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

import runs
from alphabar.config.allowed_targets import locate
from alphabar.config.former_names import FORMER_CLASSES, FORMER_MODULES, current_target
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.thresholdings import Static
from alphabar.evaluation import receipt
from alphabar.metrics.features import classifier
from alphabar.reports import report
from alphabar.runs.provenance.receipt import json_content
from alphabar.runs.run_speed import UTILIZATION

LEGACY = Path(__file__).parent / "legacy"


@pytest.fixture
def old_run(tmp_path):
    return shutil.copytree(LEGACY / "run", tmp_path / "old")


def test_an_old_checkpoint_draws_what_it_drew(command, old_run):
    draw = ("num=4", "sampler.num_steps=4", "labels=[3,5]", "guidance=classifier_free", "guidance.weight=2", "ema_length=0.1")
    code, _, err = command(
        "sample", f"checkpoint={old_run}/checkpoints/last.ckpt", *draw, "format=npz", "film=0", "hydra.run.dir=drawn"
    )
    assert (code, err) == (0, "")
    then, now = np.load(LEGACY / "run_samples.npz")["images"].astype(int), np.load("drawn/images.npz")["images"].astype(int)
    assert np.abs(then - now).max() <= 1  # float32 on another processor


def test_an_old_run_is_resumed(command, old_run):
    code, _, err = command("train", f"resume={old_run}", "trainer.max_steps=12")
    assert (code, err) == (0, "")
    rows = runs.table(old_run / "metrics.csv")
    losses = {row["step"]: float(row["train/loss"]) for row in rows if row["train/loss"]}
    assert losses["10"] == pytest.approx(1.0453016, rel=1e-4)  # as the version that wrote it went on
    assert losses["12"] == pytest.approx(0.96058571, rel=1e-4)
    assert all(float(rows[-1][name]) > 0 for name in UTILIZATION)
    assert runs.checkpoint(old_run)["global_step"] == 12


def test_an_old_checkpoint_is_evaluated(command, old_run, monkeypatch):
    monkeypatch.setattr(classifier, "MIN_STEPS", 400)  # as its figure was measured
    settings = ("num=101", "sampler.num_steps=2", "features.cache_dir=cache", "statistics.kid=null")
    code, _, err = command("evaluate", f"checkpoint={old_run}/checkpoints/last.ckpt", *settings, "hydra.run.dir=judged")
    assert code == 0, err
    assert runs.figures("judged")["fid/n101-classifier-ema-ddim2"] == pytest.approx(37.43, rel=0.05)


def test_an_old_receipt_is_compared_with_new_ones():
    old = receipt.read_receipt(LEGACY / "receipt.json")
    assert old.protocol["sampler"] == json_content(DDIM(num_steps=2, thresholding=Static()))


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_reports_of_old_folders(tmp_path, name):
    folder = shutil.copytree(LEGACY / name, tmp_path / name)
    report.report_command([str(folder)])
    assert "schedule" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("former", "now"), FORMER_MODULES.items())
def test_moved_classes_are_found_under_their_former_names(former, now):
    assert importlib.util.find_spec(now) is not None
    assert current_target(f"{former}.Name") == f"{now}.Name"


@pytest.mark.parametrize(("former", "now"), FORMER_CLASSES.items())
def test_a_class_that_was_renamed_is_found_under_its_former_name(former, now):
    assert locate(former) is locate(now)


def test_what_was_not_moved_keeps_its_name():
    assert current_target("alphabar.models.networks.unet.UNet") == "alphabar.models.networks.unet.UNet"
