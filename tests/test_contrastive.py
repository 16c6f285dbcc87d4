"""Training a CLIP: the loss, the augmentation, and a run from images with captions to a folder that others read."""

import json
import shutil

import pytest
import torch
from torch.nn import functional as F

import pictured
import runs
from alphabar.models.clip.small import SmallCLIP
from alphabar.training.modules.contrastive import Augmentation, contrastive_loss


def test_the_loss_is_the_mean_of_two_cross_entropies():
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(5, 4, generator=generator), dim=1) for _ in range(2))
    losses = contrastive_loss(images, texts, torch.arange(5), torch.tensor(3.0))
    for row in range(5):
        over_texts = torch.logsumexp(3 * texts @ images[row], 0) - 3 * texts[row] @ images[row]
        over_images = torch.logsumexp(3 * images @ texts[row], 0) - 3 * texts[row] @ images[row]
        torch.testing.assert_close(losses[row], (over_texts + over_images) / 2)


def test_images_with_one_caption_are_not_told_from_each_other():
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(4, 4, generator=generator), dim=1) for _ in range(2))
    captions = torch.tensor([7, 8, 7, 9])
    texts[2] = texts[0]
    losses = contrastive_loss(images, texts, captions, torch.tensor(3.0))
    without = contrastive_loss(images[[0, 1, 3]], texts[[0, 1, 3]], torch.tensor([7, 8, 9]), torch.tensor(3.0))
    torch.testing.assert_close(losses[0], without[0])
    assert losses[1] > without[1]  # image 2 is one more to tell it from
    assert losses.isfinite().all()


def test_augmentation_moves_and_coarsens():
    images = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 8:24, 8:24] = 255
    images[:, :, 8:24:2, 8:24] = 0  # stripes that 8 pixels cannot show
    still = Augmentation(resolutions=(32, 8, 32), shift=0, zoom=0, noise=0)(images, 32)
    torch.testing.assert_close(still[[0, 1, 4, 5]], images[[0, 1, 4, 5]].float(), atol=1.0, rtol=0)
    assert (still[2:4, :, 10:22, 10:22] - 128).abs().max() < 60
    torch.manual_seed(0)
    moved = Augmentation(resolutions=(32,), shift=0.1, zoom=0.2, noise=5.0)(images, 16)
    assert moved.shape == (6, 3, 16, 16)
    assert moved.min() >= 0
    assert moved.max() <= 255
    assert (moved[0] - moved[1]).abs().mean() > 3


@pytest.mark.parametrize("settings", [{"resolutions": ()}, {"resolutions": (0,)}, {"shift": -1.0}, {"noise": -1.0}])
def test_an_augmentation_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ValueError, match="need"):
        Augmentation(**settings)


@pytest.fixture(scope="module")
def trained():
    return pictured.contrastive()


def test_a_run_leaves_a_pair_with_averaged_weights(trained):
    clip = SmallCLIP(str(trained.run / "clip"))
    assert clip.width == 8
    saved = runs.checkpoint(trained.run)
    averages = {name.removeprefix("towers."): value for name, value in saved["ema"]["weights"].items()}
    weights = clip._loaded.state_dict()
    assert averages.keys() == weights.keys()
    assert all(torch.equal(averages[name], weights[name]) for name in weights)
    assert any(not torch.equal(saved["state_dict"][f"towers.{name}"], weights[name]) for name in weights)
    assert json.loads((trained.run / "clip" / "config.json").read_text())["model_type"] == "alphabar_clip"


def test_a_run_logs_how_well_captions_are_found(trained):
    rows = runs.table(trained.run / "metrics.csv")
    for name in ("caption_of_10", "caption_of_all", "image_of_10", "image_of_all"):
        values = [float(row[f"retrieval/{name}"]) for row in rows if row[f"retrieval/{name}"]]
        assert len(values) == 3
        assert all(0 <= value <= 1 for value in values)
    assert 1 < float(rows[-1]["train/scale"]) < 100
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])


def test_a_trained_pair_tells_captions_apart(trained):
    rows = runs.table(trained.run / "metrics.csv")
    assert float(rows[-1]["retrieval/caption_of_10"]) > 0.5  # chance is 0.1


def test_resumed_it_goes_on_as_if_it_had_not_stopped(trained, tmp_path):
    stopped = shutil.copytree(pictured.contrastive("trainer.max_steps=60").run, tmp_path / "stopped")
    pictured.call("train", f"resume={stopped}", "trainer.max_steps=120")
    one, other = (runs.checkpoint(folder)["state_dict"] for folder in (trained.run, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_no_good_is_said_in_one_line(trained, tmp_path, capsys):
    words = [*trained.words, "experiment=smoke/contrastive", f"data.root={trained.folder}", f"hydra.run.dir={tmp_path}/out"]
    for more, complaint in {
        "data.caption_key=null": "experiment=contrastive needs images with captions, and these data have none",
        "data.batch_size=1": "data.batch_size=1: need two images or more to tell one from another",
        "module.towers.text_channels=9": "gives tokens of 12 numbers, not 9: set module.towers.text_channels=12",
        "module.towers.resolution=20": "module.towers: need resolution to be a multiple of 8, got resolution=20",
        "data.held_out=0": "callbacks.retrieval: needs two held-out images or more, of different captions",
    }.items():
        capsys.readouterr()
        assert pictured.call("train", *words, more, code=2) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert complaint in line


def test_a_pair_is_no_model_to_sample_from(trained, tmp_path, capsys):
    capsys.readouterr()
    words = [f"checkpoint={trained.run}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/out"]
    assert pictured.call("sample", *words, code=2) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "ContrastiveModule" in line
