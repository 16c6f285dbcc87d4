"""Training a KL autoencoder, and what it leaves behind."""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

import runs
import toy
from alphabar.data.sources.digits import Digits
from alphabar.files.picture_text import read_picture_text
from alphabar.metrics import Features
from alphabar.metrics.statistics.frechet import Frechet
from alphabar.models.codecs.pixels import to_uint8
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.export import Export
from alphabar.training.callbacks.reconstructions import Reconstructions, psnr, reconstructed
from alphabar.training.ema import EMA
from simple_features import collected, pixels_as_features
from tiny_autoencoders import module

SMOKE = ("experiment=smoke/autoencoder", "data.root=photos", "logger=csv")


def photos(folder, num=24):
    for index in range(num):
        place = folder / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 18), (10 * index, 90, 250 - 10 * index)).save(place / f"{index}.png")


@pytest.fixture
def command(command, tmp_path):
    """The same, in a folder with photos."""
    photos(tmp_path / "photos")
    return command


def train(folder, max_steps, ckpt_path=None, **options):
    torch.manual_seed(0)
    model = module(**options)
    callbacks = [EMA(0.5), Reconstructions(None, 2, num=8), Export(), Checkpoints(2)]
    trainer = toy.trainer(folder, callbacks, max_steps)
    trainer.fit(model, datamodule=toy.digits(8), ckpt_path=ckpt_path, weights_only=True)
    return trainer, model


def test_a_resumed_run_ends_where_an_uncut_one_does(tmp_path):
    options = {"adversarial_weight": 0.1, "adversarial_from": 1}
    train(tmp_path / "whole", 4, **options)
    train(tmp_path / "cut", 2, **options)
    train(tmp_path / "cut", 4, tmp_path / "cut" / "checkpoints" / "last.ckpt", **options)
    whole, cut = (runs.checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert whole["state_dict"].keys() == cut["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][name]), name
        if name in whole["ema"]["weights"]:
            assert torch.equal(whole["ema"]["weights"][name], cut["ema"]["weights"][name])


def test_what_is_exported_are_the_averages_in_diffusers_format(tmp_path):
    _, model = train(tmp_path, 3)
    theirs = AutoencoderKL.from_pretrained(tmp_path / "autoencoder")
    averages = runs.checkpoint(tmp_path)["ema"]["weights"]
    live = copy.deepcopy(model.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, averages[f"autoencoder.network.{name}"])
    assert any(not torch.equal(averages[name], live[name]) for name in averages)
    assert sorted(path.name for path in tmp_path.iterdir() if "autoencoder" in path.name) == ["autoencoder"]


def test_training_makes_reconstructions_better(tmp_path):
    _, model = train(tmp_path, 2)
    before = dict(model.figures)
    _, model = train(tmp_path / "longer", 40)
    assert model.figures["reconstruction/l1"] < 0.8 * before["reconstruction/l1"]
    assert model.figures["reconstruction/psnr"] > before["reconstruction/psnr"]
    assert (tmp_path / "longer" / "samples" / "step_0000040.png").is_file()
    assert read_picture_text(tmp_path / "longer" / "samples" / "step_0000040.png")["Step"] == "40"


@dataclass(frozen=True)
class PixelFeatures(Features):
    cache_dir: Path

    def extractors(self, splits):
        return [pixels_as_features(64, self.cache_dir)]


def test_the_frechet_distance_at_the_end_is_to_the_images_themselves(tmp_path):
    data, model = toy.digits(8), module()
    callbacks = [Reconstructions(PixelFeatures(tmp_path / "cache"), 1, num=40, batch_size=16)]
    toy.trainer(tmp_path, callbacks, 2).fit(model, datamodule=data)
    images = data.held_out_set.images(range(40))
    with torch.no_grad():
        made = to_uint8(reconstructed(model.eval(), images)[2])
    figures = {name: value for name, value in model.figures.items() if name.startswith("reconstruction/fid")}
    expected = Frechet(allow_few=True).compute(collected(made, pixels_as_features(64)), collected(images, pixels_as_features(64)))
    assert figures == {"reconstruction/fid/n40-pixels-heldout": pytest.approx(expected["fid"], rel=1e-3)}
    assert float(psnr(images, made).mean()) == pytest.approx(model.figures["reconstruction/psnr"], rel=1e-4)


def test_a_run_that_ends_by_its_epochs_logs_the_distance_and_names_its_images(tmp_path):
    data, model = Digits(batch_size=512, seed=0, num_held_out=1), module()
    callbacks = [Reconstructions(PixelFeatures(tmp_path / "cache"), 1, num=40, batch_size=40)]
    toy.trainer(tmp_path, callbacks, max_steps=-1, max_epochs=1).fit(model, datamodule=data)
    assert callbacks[0].last_step == model.global_step
    assert "reconstruction/fid/n40-pixels-train" in model.figures


def test_the_smoke_experiment_trains_measures_and_prints_the_next_command(command, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("alphabar.progress.SECONDS", 0.0)
        code, out, err = command("train", *SMOKE)
    assert code == 0, err
    assert "reconstructions at step 4: 100%" in err
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert "codec=autoencoder codec.name=outputs/train/" in out
    row = runs.table(folder / "metrics.csv")[-1]
    assert float(row["reconstruction/psnr"]) > 0
    assert float(row["latents/std"]) > 0
    assert {"config.json", "diffusion_pytorch_model.safetensors"} <= {path.name for path in (folder / "autoencoder").iterdir()}
    code, _, err = command("sample", f"checkpoint={folder / 'checkpoints' / 'last.ckpt'}")
    assert code == 2
    assert "need one of a diffusion model, got one of AutoencoderModule, which draws no images" in err
    assert len(err.strip().splitlines()) == 1


def test_losses_that_are_off_are_turned_on_by_their_weights(command, squeezenet, tmp_path):
    words = (
        "data.resolution=18",
        "module.perceptual_weight=1",
        f"module.perceptual.weights={squeezenet}",
        "module.adversarial_weight=0.1",
    )
    code, _, err = command("train", *SMOKE, *words, "module.discriminator_width=8", "trainer.max_steps=2")
    assert code == 0, err
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    row = runs.table(folder / "metrics.csv")[-1]
    assert {f"train/{name}" for name in ("reconstruction", "kl", "perceptual", "adversarial", "discriminator")} <= set(row)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["module.perceptual_weight=1", "data.resolution=18", "module.perceptual.weights=none.pth"],
            "perceptual: there is no file none.pth",
        ),
        (["data.resolution=15"], "module.autoencoder: need a resolution that 2 widths can halve"),
        (["module.kl_weight=-1"], "module: need kl_weight"),
    ],
)
def test_what_is_wrong_is_one_line(command, words, message):
    code, _, err = command("train", *SMOKE, *words)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(Path().rglob("config.yaml"))
