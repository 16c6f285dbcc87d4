"""unCLIP from captions to images: a CLIP, a prior and a decoder, all tiny, trained and used by the commands of the documentation."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image

import pictured
import runs
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.errors import UserError
from alphabar.evaluation import receipt
from alphabar.models.networks.prior import Prior
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import load_model
from alphabar.sampling.pipeline import Pipeline
from alphabar.sampling.tasks.interpolate import Interpolate
from alphabar.training.callbacks.embeddings import similarity_figures

CACHE_DIR = f"{runs.CACHE}/unclip-cache"
DRAW = ["sampler.num_steps=3", "film=0"]


class Runs(NamedTuple):
    clip: str
    prior: str
    decoder: str
    words: list[str]
    pictures: Path


@pytest.fixture(scope="module")
def trained():
    """The three of them."""
    clip = pictured.contrastive()
    words = ["logger=csv", f"clip={clip.run}/clip", f"data.root={clip.folder}", "data.held_out=0.25"]
    encoder = ["encoder.name=" + str(clip.folder.parent / "encoder"), "encoder.max_length=9", f"cache_dir={CACHE_DIR}"]
    text = [*(f"conditioner.{word}" for word in encoder), "optimizer.lr=3e-3", "trainer.max_steps=120"]
    text.append(f"codec.cache_dir={CACHE_DIR}")
    prior = runs.finished("train.py", "experiment=smoke/unclip_prior", *words, *text, "callbacks.embeddings.every_n_steps=60")
    longer = ["optimizer.lr=3e-3", "trainer.max_steps=60"]
    decoder = runs.finished("train.py", "experiment=smoke/unclip_decoder", *words, *longer)
    prior, decoder = (f"{folder}/checkpoints/last.ckpt" for folder in (prior, decoder))
    return Runs(f"{clip.run}/clip", prior, decoder, [*words, *text], clip.folder)


def complaint(capsys, script, *words) -> str:
    capsys.readouterr()
    pictured.call(script, *words, code=2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_the_network_is_a_function_of_vector_level_and_tokens():
    torch.manual_seed(0)
    network = Prior(6, width=8, depth=2, num_heads=2, vector_channels=3, token_channels=5).eval()
    x, label = torch.randn(4, 6), torch.rand(4)
    cond = {
        "vector": torch.randn(4, 3),
        "tokens": torch.randn(4, 7, 5),
        "mask": torch.arange(7) < torch.tensor([[7], [3], [1], [5]]),
    }
    assert torch.equal(network(x, label, cond), torch.zeros(4, 6))  # before training
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    y = network(x, label, cond)
    assert y.shape == (4, 6)
    hidden = {**cond, "tokens": torch.where(cond["mask"][:, :, None], cond["tokens"], 9.0)}
    torch.testing.assert_close(network(x, label, hidden), y)
    for key in ("vector", "tokens"):
        assert (network(x, label, {**cond, key: cond[key] + 1}) - y).abs().amax(1).min() > 1e-3
    assert (network(x, label + 0.5, cond) - y).abs().max() > 1e-3
    torch.testing.assert_close(network(x[2:3], label[2:3], {name: value[2:3] for name, value in cond.items()}), y[2:3])
    with pytest.raises(ValueError, match="network=prior is for codec=image_embedding"):
        network(torch.zeros(4, 3, 8, 8), label, cond)
    with pytest.raises(ValueError, match="reads no image"):
        network(x, label, {**cond, "image": torch.zeros(4, 1)})


@pytest.mark.parametrize("settings", [{"channels": 0}, {"depth": 0}, {"num_heads": 3}, {"mlp_ratio": 0.0}, {"dropout": 1.0}])
def test_a_network_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ValueError, match="need"):
        Prior(**{"channels": 6, "width": 8, **settings})


def test_figures_of_drawn_vectors():
    images = torch.nn.functional.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    figures = similarity_figures(images, images, images)
    assert figures["embeddings/cosine"] == pytest.approx(1)
    assert abs(figures["embeddings/cosine_shuffled"]) < 0.4
    assert figures["embeddings/caption_of_10"] == figures["embeddings/real_caption_of_10"] == 1
    assert similarity_figures(images.roll(1, 0), images, images)["embeddings/caption_of_10"] < 0.3


def test_a_prior_logs_how_near_it_comes(trained):
    rows = runs.table(Path(trained.prior).parents[1] / "metrics.csv")
    drawn = [row for row in rows if row["embeddings/cosine"]]
    assert [row["step"] for row in drawn] == ["60", "120"]
    for row in drawn:
        assert -1 <= float(row["embeddings/cosine"]) <= 1
    last = drawn[-1]
    assert float(last["embeddings/cosine"]) > float(last["embeddings/cosine_shuffled"]) + 0.1
    assert float(last["embeddings/real_caption_of_10"]) > 0.5


def test_checkpoints_say_which_clip_and_do_not_hold_it(trained):
    for path, key in ((trained.prior, "codec"), (trained.decoder, "conditioner")):
        saved = torch.load(path, weights_only=True)
        assert len(saved["config"][key]["digest"]) == 64
        assert saved["config"]["module"][key]["digest"] == saved["config"][key]["digest"]
        assert not any("seeing" in name for name in saved["state_dict"])


def test_a_prompt_becomes_images_by_way_of_the_prior(trained, tmp_path):
    words = [f"checkpoint={trained.decoder}", f"stages=[{trained.prior}]", 'prompt="red cat"', "num=3", *DRAW]
    for name, more in {"one": [], "again": ["batch_size=1"], "led": ["guidance=classifier_free", "guidance.weight=3"]}.items():
        pictured.call("sample", *words, *more, f"hydra.run.dir={tmp_path}/{name}")
    pictures = {}
    for name in ("one", "again", "led"):
        with Image.open(tmp_path / name / "images" / "000002.png") as image:
            assert image.size == (8, 8)
            pictures[name] = torch.tensor(np.asarray(image.convert("RGB"))).int()
    assert (pictures["one"] - pictures["again"]).abs().max() <= 1
    assert not torch.equal(pictures["one"], pictures["led"])
    assert json.loads((tmp_path / "one" / "labels.json").read_text())["000002.png"] == "red cat"


def test_variations_of_a_picture(trained, tmp_path):
    picture = next(trained.pictures.rglob("*.png"))
    pictured.call("sample", f"checkpoint={trained.decoder}", f"images={picture}", "num=4", *DRAW, f"hydra.run.dir={tmp_path}/out")
    files = sorted((tmp_path / "out" / "images").iterdir())
    assert len(files) >= 4
    assert len({str(runs.pixels(file)) for file in files}) >= 4


def test_interpolation_between_embeddings(trained, tmp_path, capsys):
    words = [f"checkpoint={trained.decoder}", "task=interpolate", "num=2", "task.num_frames=3", "sampler.num_steps=3"]
    folder = trained.pictures
    pictured.call("sample", *words, "task.between=embeddings", f"images={folder}", f"hydra.run.dir={tmp_path}/out")
    files = {file.name: str(runs.pixels(file)) for file in (tmp_path / "out" / "images").iterdir()}
    assert sorted(files) == [f"00000{row}_frame0{frame}.png" for row in (0, 1) for frame in (0, 1, 2)]
    assert len(set(files.values())) > 3  # neighbours of a barely trained model may be equal
    one = next(folder.rglob("*.png"))
    bad = [*words, "task.between=embeddings", f"images={one}", f"hydra.run.dir={tmp_path}/bad"]
    assert "there is nothing between, need two images, got 1" in complaint(capsys, "sample", *bad)
    assert not (tmp_path / "bad").exists()


def test_the_ends_of_an_interpolation_are_variations_of_its_images(trained, tmp_path):
    folder, loaded = trained.pictures, load_model(trained.decoder, "ema")
    settings = Inference(checkpoint=trained.decoder, run_dir=str(tmp_path), sampler=DDIM(num_steps=3), files=str(folder), num=1)
    pipeline = Pipeline(settings, loaded)
    task = Interpolate(inference=settings, between="embeddings", num_frames=2)
    with torch.no_grad():
        frames = list(task.plan(Fabric(accelerator="cpu"), pipeline).edit([0]))
        originals = task.originals(Fabric(accelerator="cpu"), pipeline, 2)
        for frame, original in zip(frames, originals, strict=True):
            noise = ImageNoise(settings.seed, [0])
            x_T = noise.draw((3, 8, 8), torch.device("cpu"))
            told = loaded.model.conditioner.from_image(original[None], noise)
            expected = settings.sampler.sample(pipeline.denoiser(), x_T, told, noise)
            torch.testing.assert_close(frame, expected, rtol=1e-3, atol=5e-3)


def test_retrieval_of_what_a_prior_and_a_decoder_make(trained, tmp_path):
    words = [f"checkpoint={trained.decoder}", f"stages=[{trained.prior}]", "features=contrastive", f"features.name={trained.clip}"]
    settings = ["num=40", "sampler.num_steps=2", f"features.cache_dir={tmp_path}/cache", "batch_size=16"]
    none = [f"statistics.{name}=null" for name in ("fid", "kid", "prdc")]
    pictured.call("evaluate", *words, *settings, *none, f"hydra.run.dir={tmp_path}/out")
    figure = next(figure for figure in receipt.read_receipt(tmp_path / "out").figures if figure.metric == "retrieval")
    assert figure.name.startswith("retrieval/n40-pair_")
    assert 0 <= figure.mean <= 1
    assert figure.floor > 0.3  # real images


def test_pictures_are_not_drawn_of_vectors(trained, tmp_path, capsys):
    film = "+callbacks.film={_target_: alphabar.training.callbacks.film.Film, sampler: ${sampler}, seed: 0}"
    words = ["experiment=smoke/unclip_prior", *trained.words, f"hydra.run.dir={tmp_path}/out", f"clip={trained.clip}"]
    assert "callbacks.film: this model makes no images: choose callbacks=prior" in complaint(capsys, "train", *words, film)


def test_what_is_no_good_is_said_in_one_line(trained, tmp_path, capsys):
    out = f"hydra.run.dir={tmp_path}/out"
    alone = complaint(capsys, "sample", f"checkpoint={trained.prior}", 'prompt="red cat"', out)
    assert "makes no images" in alone
    words = ["experiment=smoke/unclip_prior", *trained.words, out]
    gone = complaint(capsys, "train", *words, f"clip={tmp_path}/gone")
    assert "CLIP" in gone
    assert "does not exist" in gone
    decoder = ["experiment=smoke/unclip_decoder", *trained.words[:4], out, "conditioning.vector=9"]
    assert "conditioner: this CLIP gives vectors of 8 numbers, not 9: set conditioning.vector=8" in complaint(
        capsys, "train", *decoder
    )
    assert "on images, not on text" in complaint(capsys, "sample", f"checkpoint={trained.decoder}", "prompt=cat", out)
    between = [f"checkpoint={trained.decoder}", "task=interpolate", "task.between=noise", out]
    assert "conditioned on images" in complaint(capsys, "sample", *between)


def test_another_clip_under_the_same_name_is_refused(trained, tmp_path):
    saved = torch.load(trained.decoder, weights_only=True)
    other = pictured.contrastive("trainer.max_steps=2", "seed=1")
    saved["config"]["module"]["conditioner"]["clip"]["name"] = f"{other.run}/clip"
    torch.save(saved, tmp_path / "moved.ckpt")
    with pytest.raises(UserError, match="this was trained with another CLIP, of digest"):
        load_model(tmp_path / "moved.ckpt", "ema")
