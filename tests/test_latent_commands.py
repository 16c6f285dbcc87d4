"""Whole commands that train and sample in latents."""

import json

import pytest
import torch
from PIL import Image

import runs
import tiny_texts
from alphabar.models.autoencoder_files import FrozenAutoencoder
from tiny_autoencoders import save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("vae") / "colours")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return tiny_texts.make("bert", tmp_path_factory.mktemp("texts"))


@pytest.fixture
def command(command, tmp_path):
    """The same, in a folder with captioned photos."""
    (tmp_path / "photos").mkdir()
    lines = []
    for index in range(24):
        Image.new("RGB", (20, 18), (10 * index, 90, 250 - 10 * index)).save(tmp_path / "photos" / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": ["a cat", "a red heart", "dog"][index % 3]}))
    (tmp_path / "photos" / "metadata.jsonl").write_text("\n".join(lines))
    return command


def smoke(folder, texts, *more):
    encoder = (f"conditioner.encoder.name={texts}", "conditioner.encoder.max_length=9")
    return ("experiment=smoke/latent_text", "data.root=photos", f"codec.name={folder}", *encoder, "logger=csv", *more)


def test_the_smoke_experiment_trains_draws_and_edits(command, tmp_path, folder, texts):
    code, _, err = command("train", *smoke(folder, texts, "hydra.run.dir=run"))
    assert code == 0, err
    saved = runs.checkpoint(tmp_path / "run")
    assert saved["global_step"] == 4
    assert saved["config"]["module"]["codec"]["digest"] == FrozenAutoencoder(str(folder)).digest
    assert int(saved["state_dict"]["codec.num_measured"]) > 0
    assert (tmp_path / "run" / "film.gif").is_file()
    assert list((tmp_path / "outputs" / "cache" / "latents").glob("latents-*"))
    draw = ("checkpoint=run/checkpoints/last.ckpt", "sampler.num_steps=2", "num=2")
    guided = ("prompt='a cat'", "guidance=classifier_free")
    tasks = (("task=inpaint", "task.num_resamples=1"), ("task=image_to_image",), ("task=interpolate",), ("task=encode",))
    for index, words in enumerate((guided, *((*task, "images=photos") for task in tasks))):
        code, _, err = command("sample", *draw, *words, f"hydra.run.dir=drawn{index}")
        assert code == 0, (words, err)
        assert list((tmp_path / f"drawn{index}" / "images").glob("*.png"))
    code, _, err = command("sample", *draw, "thresholding=dynamic", "hydra.run.dir=clipped")
    assert code == 2
    assert "no range to be kept in" in err


def test_the_whole_experiment_trains_two_steps(command, folder, texts, tmp_path):
    words = ("trainer.max_steps=2", "data.batch_size=2", "data.resolution=16", "callbacks.samples.num=2", "sampler.num_steps=2")
    encoder = (f"conditioner.encoder.name={texts}", "conditioner.encoder.max_length=9")
    name = (
        "experiment=latent_text",
        "data.root=photos",
        f"codec.name={folder}",
        "hydra.run.dir=run",
        "logger=csv",
        "codec.cache=false",
    )
    code, _, err = command("train", *name, *encoder, *words, "callbacks.film.num=1")
    assert code == 0, err
    assert runs.checkpoint(tmp_path / "run")["global_step"] == 2
    assert not (tmp_path / "outputs" / "cache" / "latents").exists()


def test_a_resumed_run_ends_where_an_uncut_one_does(command, tmp_path, folder, texts):
    quick = ("callbacks.film=null", "callbacks.samples=null", "data.flip=true")
    assert command("train", *smoke(folder, texts, *quick, "hydra.run.dir=whole"))[0] == 0
    assert command("train", *smoke(folder, texts, *quick, "hydra.run.dir=cut", "trainer.max_steps=2"))[0] == 0
    code, _, err = command("train", "resume=cut", "trainer.max_steps=4")
    assert code == 0, err
    whole, cut = (runs.checkpoint(tmp_path / name)["state_dict"] for name in ("whole", "cut"))
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


def test_an_autoencoder_that_moved_or_changed(command, tmp_path, folder, texts):
    home = save(tmp_path / "home")
    quick = ("callbacks.film=null", "callbacks.samples=null", "callbacks.held_out_loss=null", "trainer.max_steps=2")
    assert command("train", *smoke(home, texts, *quick, "hydra.run.dir=run"))[0] == 0
    home.rename(tmp_path / "moved")
    draw = ("checkpoint=run/checkpoints/last.ckpt", "sampler.num_steps=2", "num=2", "film=0")
    code, _, err = command("sample", *draw)
    assert code == 2
    assert f"{home} does not exist" in err
    assert "codec_name=" in err
    assert command("sample", *draw, f"codec_name={tmp_path / 'moved'}", "hydra.run.dir=drawn")[0] == 0
    weak = ("guidance=autoguidance", "guidance.weights=raw", "guidance.checkpoint=run/checkpoints/last.ckpt")
    code, _, err = command("sample", *draw, *weak, f"codec_name={tmp_path / 'moved'}", "hydra.run.dir=guided")
    assert code == 0, err
    save(home, seed=1)
    code, _, err = command("sample", *draw)
    assert code == 2
    assert "are not those that the latents are of" in err
    assert len(err.strip().splitlines()) == 1
    code, _, err = command("train", "resume=run", "trainer.max_steps=4")
    assert code == 2
    assert "are not those that the latents are of" in err
    code, _, err = command("train", "resume=run", "trainer.max_steps=4", f"codec_name={tmp_path / 'moved'}")
    assert code == 0, err
    saved = runs.checkpoint(tmp_path / "run")
    assert saved["global_step"] == 4
    assert saved["config"]["codec"]["name"] == saved["config"]["module"]["codec"]["name"] == str(tmp_path / "moved")


def test_codec_name_of_a_model_without_one_is_refused(command, tmp_path, folder):
    words = runs.words(
        "trainer.max_steps=1", "callbacks.fid=null", "callbacks.film=null", "callbacks.samples=null", folder=tmp_path / "run"
    )
    assert command("train", *words)[0] == 0
    code, _, err = command("sample", "checkpoint=run/checkpoints/last.ckpt", f"codec_name={folder}")
    assert code == 2
    assert "not one in the latents of an autoencoder" in err
    code, _, err = command("train", "resume=run", "trainer.max_steps=2", f"codec_name={folder}")
    assert code == 2
    assert "not one in the latents of an autoencoder" in err
    code, _, err = command("train", *words, f"codec_name={folder}", "hydra.run.dir=other")
    assert code == 2
    assert "is for a run that is resumed; one that begins takes codec.name=..." in err


def test_two_processes_make_the_same_latents_and_weights(tmp_path, folder):
    """On the digits, whose classes need no encoder of texts."""
    words = (
        "callbacks.fid=null",
        "callbacks.film=null",
        "callbacks.samples=null",
        "callbacks.held_out_loss=null",
        "trainer.max_steps=3",
    )
    codec = ("codec=autoencoder", f"codec.name={folder}")
    for devices in (1, 2):
        sizes = (f"trainer.devices={devices}", f"data.batch_size={16 // devices}", "trainer.accelerator=cpu")
        here = (f"codec.cache_dir={tmp_path / str(devices)}", *codec, *words, *sizes)
        code, _, err = runs.run("train.py", *runs.words(*here, folder=tmp_path / f"run{devices}"), cwd=tmp_path, seconds=280)
        assert code == 0, err
    folders = [tmp_path / str(devices) for devices in (1, 2)]
    one, two = (
        max(folder.iterdir(), key=lambda path: path.stat().st_size).read_bytes() for folder in folders
    )  # the entry, no note
    assert len(one) == len(two)
    first, second = (torch.frombuffer(bytearray(content[-1000:]), dtype=torch.float16).float() for content in (one, two))
    torch.testing.assert_close(first, second, rtol=2e-3, atol=2e-3)
    single, double = (runs.checkpoint(tmp_path / f"run{devices}")["state_dict"] for devices in (1, 2))
    for name in ("codec.mean", "codec.std", "codec.num_measured"):
        torch.testing.assert_close(single[name], double[name], rtol=1e-3, atol=1e-4)
