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
from alphabar.cli.composition.hydra_app import App
from alphabar.cli.composition.resolvers import register
from alphabar.config.interpolation import unresolved_container

register()
SMALL = ("network.base_channels=8", "network.norm_groups=4")
BRIEF = (
    "trainer.max_steps=2",
    "report=false",
    "data.batch_size=2",
    "sampler.num_steps=2",
    "callbacks.samples.num=2",
    "callbacks.film.num=1",
    "callbacks.held_out_loss.num=8",
    "callbacks.fid=null",
    "logger=csv",
)


def stand_ins() -> dict[str, list[str]]:
    """Returns the experiments that need no more than images, with overrides for small networks and for local files instead of downloads.

    Those with captions, with files of other runs or with a module of their own are trained where these are tested.
    """
    app, found = App(runs.ROOT / "conf", "train"), {}
    for name in app.groups["experiment"]:
        cfg = app.compose([f"experiment={name}"])
        choices, content = cfg.hydra.runtime.choices, unresolved_container(cfg)
        needs_files = "???" in (content.get("clip"), content["codec"].get("name"))
        if choices.module != "diffusion" or choices.conditioner == "text" or needs_files:
            continue
        words = [f"network.base_channels={min(cfg.network.base_channels, 32)}"] if "base_channels" in cfg.network else []
        if choices.data == "torchvision" and cfg.data.name != "FashionMNIST":
            words += ["data=folder", "~data.name", "data.resolution=32"]
        root = {"folder": "photos", "torchvision": "photos" if "data=folder" in words else "files"}.get(choices.data)
        found[name] = words if root is None else [*words, f"data.root={root}"]
    return found


EXPERIMENTS = stand_ins()


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


@pytest.mark.parametrize(("experiment", "words"), EXPERIMENTS.items(), ids=EXPERIMENTS)
def test_every_experiment_trains_two_steps(trains, experiment, words):
    assert trains(f"experiment={experiment}", *words)["global_step"] == 2


@pytest.mark.parametrize("method", sorted(path.stem for path in (runs.ROOT / "conf" / "method").glob("*.yaml")))
def test_every_method_trains_and_draws_with_its_own_parts(trains, method):
    saved = trains(f"method={method}", *SMALL)
    assert saved["global_step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_a_run_measures_fid_on_files_of_torchvision(trains, tmp_path):
    words = (*SMALL, "callbacks.fid.num=8", "callbacks.fid.batch_size=4", "features.max_side=8", f"features.cache_dir={runs.CACHE}")
    trains("experiment=fashion_mnist", "data.root=files", *words, brief=[word for word in BRIEF if word != "callbacks.fid=null"])
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert "fid/n8-classifier8-ema-ddim2" in (folder / "metrics.csv").read_text()


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
        ["data=torchvision", "data.name=FashionMNIST", "data.root=files"],
        ["logger=tensorboard"],
        ["~callbacks.film", "callbacks.curves=null", "trainer.accumulate_grad_batches=2"],
    ],
    ids=" ".join,
)
def test_what_can_be_combined_trains(trains, words):
    saved = trains(*([] if "network=simple_unet" in words else SMALL), *words)
    assert saved["global_step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_a_run_that_epochs_end_leaves_its_last_state(trains, tmp_path):
    words = ("data=torchvision", "data.name=FashionMNIST", "data.root=files", "callbacks.curves=null")
    saved = trains(*SMALL, *words, "trainer.max_steps=-1", "+trainer.max_epochs=1", "trainer.log_every_n_steps=4")
    assert saved["global_step"] == 10
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["0", "4", "8", "10"]
    assert (folder / "samples" / "step_0000010.png").exists()
