"""Every experiment composes and trains two steps, as do the tasks that the README shows."""

import importlib
import struct
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import runs
from alphabar.cli.command import execute
from alphabar.cli.hydra_app import App

# They take callbacks or files of their own, and are trained in tests of their own: test_autoencoder.py, test_latents.py,
# test_contrastive.py, test_unclip.py, test_cascade.py.
ELSEWHERE = {"cascade_base", "autoencoder", "latent_text", "contrastive", "unclip_prior", "unclip_decoder"}
EXPERIMENTS = sorted({path.stem for path in (runs.ROOT / "conf" / "experiment").glob("*.yaml")} - ELSEWHERE)
BRIEF = (
    "trainer.max_steps=2",
    "data.batch_size=2",
    "sampler.num_steps=2",
    "callbacks.samples.num=2",
    "callbacks.film.num=1",
    "callbacks.fid=null",
    "logger=csv",
)
# What stands in for downloads.
DATA = {
    "cascade_super_resolution": ["data.root=photos"],
    "cifar10": ["data=folder", "~data.name", "data.root=photos", "data.resolution=32"],
    "fashion_mnist": ["data.root=files"],
    "fashion_mnist_methods": ["data.root=files"],
}


@pytest.fixture
def trains(monkeypatch, tmp_path, capsys):
    """Runs train.py in this process, away from the repository, with a folder of photos and FashionMNIST's files at hand."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(12):
        Image.new("RGB", (40, 36), (20 * index, 0, 90)).save(tmp_path / "photos" / f"{index}.png")
    raw = tmp_path / "files" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, num in {"train": 20, "t10k": 10}.items():
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, num, 28, 28) + bytes(range(196)) * 4 * num)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, num) + bytes(index % 10 for index in range(num)))

    def train(*words, brief=BRIEF):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["train.py", *brief, *words])
        code = execute(importlib.import_module("train").main.__wrapped__, App(runs.ROOT / "conf", "train"))
        assert code == 0, capsys.readouterr().err
        (folder,) = (tmp_path / "outputs" / "train").iterdir()
        return runs.checkpoint(folder)

    return train


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_two_steps(trains, experiment):
    assert trains(f"experiment={experiment}", *DATA.get(experiment, []))["global_step"] == 2


@pytest.mark.parametrize("method", sorted(path.stem for path in (runs.ROOT / "conf" / "method").glob("*.yaml")))
def test_every_method_trains_and_draws_with_its_own_parts(trains, method):
    saved = trains(f"method={method}")
    assert saved["global_step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_a_run_measures_fid_on_files_of_torchvision(trains, tmp_path):
    words = ("callbacks.fid.num=8", "callbacks.fid.batch_size=4", f"features.cache_dir={runs.CACHE}")
    trains("experiment=fashion_mnist", "data.root=files", *words, brief=[word for word in BRIEF if word != "callbacks.fid=null"])
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert "fid/n8-classifier-ema-ddim2" in (folder / "metrics.csv").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["schedule=cosine"],
        ["schedule=sigmoid", "parameterization=x"],
        ["method=improved_ddpm", "objective=vlb", "times=importance"],
        ["method=v", "schedule=shifted_cosine", "times=laplace", "weighting=sigmoid", "sampler=unipc", "timesteps=log_snr"],
        ["method=edm", "weighting=learned", "sampler=dpmpp_2m_sde", "thresholding=dynamic", "times.stratified=true"],
        ["method=flow", "coupling=optimal_transport", "schedule.shift=3", "sampler=heun", "sampler.churn=1"],
        ["schedule=laplace", "coupling=immiscible", "weighting=p2", "sampler=euler_ancestral", "timesteps=quadratic"],
        ["coupling=offset", "weighting=soft_min_snr", "times=logit_normal", "sampler=dpmpp_2m", "timesteps=karras"],
        ["schedule=scaled_linear", "parameterization=v", "schedule.zero_terminal_snr=true", "weighting=min_snr"],
        ["network=simple_unet", "callbacks.ema=null", "sampler=ddpm"],
        ["trainer.precision=bf16-mixed", "optimizer.lr=3e-4", "seed=7"],
        ["data=folder", "data.root=photos", "data.resolution=16", "data.channels=1"],
        ["data=folder", "data.root=photos", "data.resolution=16", "data.resident=false", "data.num_workers=1"],
        ["data=torchvision", "data.name=FashionMNIST", "data.root=files", "network.base_channels=16"],
        ["logger=tensorboard"],
        ["~callbacks.film", "callbacks.curves=null", "trainer.accumulate_grad_batches=2"],
    ],
    ids=" ".join,
)
def test_what_can_be_combined_trains(trains, words):
    saved = trains(*words)
    assert saved["global_step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_a_run_that_epochs_end_leaves_its_last_state(trains, tmp_path):
    words = ("data=torchvision", "data.name=FashionMNIST", "data.root=files", "network.base_channels=16", "callbacks.curves=null")
    saved = trains(*words, "trainer.max_steps=-1", "+trainer.max_epochs=1", "trainer.log_every_n_steps=4")
    assert saved["global_step"] == 10
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["0", "4", "8", "10"]
    assert (folder / "samples" / "step_0000010.png").exists()
