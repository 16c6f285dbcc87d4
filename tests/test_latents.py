"""Diffusion in the latents of an autoencoder: its files, its codec, latents that are kept, and whole commands."""

import importlib
import json
import logging
import sys

import pytest
import torch
from diffusers import AutoencoderKL
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import runs
import tiny_texts
import toy
from alphabar.errors import UserError
from alphabar.models.autoencoder_files import FrozenAutoencoder
from alphabar.models.codecs.autoencoder import Autoencoder
from alphabar.training.app import App
from alphabar.training.cli import execute
from alphabar.training.data.latents import kept, spread, take_latents
from alphabar.training.data.loader import ImageLoader, Latents
from alphabar.training.data.order import EpochOrder
from alphabar.training.data.resident import ResidentImages
from alphabar.training.tasks.mask import known_latents, known_pixels

CPU = torch.device("cpu")


def save(folder, channels=3, seed=0):
    """A tiny autoencoder that halves the resolution once, with random weights, as diffusers saves it."""
    torch.manual_seed(seed)
    sizes = {"in_channels": channels, "out_channels": channels, "latent_channels": 2, "block_out_channels": (4, 4)}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**sizes, **blocks, layers_per_block=1, norm_num_groups=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("vae") / "colours")


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return save(tmp_path_factory.mktemp("vae") / "grey", channels=1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return tiny_texts.make("bert", tmp_path_factory.mktemp("texts"))


def images(num=6, channels=3, size=8, seed=0):
    return torch.randint(0, 256, (num, channels, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def codec(folder, channels=3, **options):
    return Autoencoder(str(folder), channels, **options)


def test_it_computes_what_diffusers_does(folder):
    theirs = AutoencoderKL.from_pretrained(folder).eval()
    found, x = codec(folder), images()
    with torch.no_grad():
        mean = theirs.encode(x.float() / 127.5 - 1).latent_dist.mean
        torch.testing.assert_close(found.encode(x), mean)
        decoded = ((theirs.decode(mean).sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(found.decode(found.encode(x)), decoded)


def test_its_weights_are_neither_saved_nor_trained(folder):
    found = codec(folder)
    found.encode(images())
    assert set(found.state_dict()) == {"mean", "std", "num_measured"}
    assert list(found.parameters()) == []


def test_latents_are_normalised_and_come_back(folder):
    found, x = codec(folder), images()
    plain, decoded = found.encode(x), found.decode(found.encode(x))
    found.measure(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0]), 10)
    torch.testing.assert_close(found.encode(x)[:, 1], (plain[:, 1] + 2) / 4)
    assert torch.equal(found.decode(found.encode(x)), decoded)


def test_grey_images_go_through_an_autoencoder_of_colours(folder):
    found, x = codec(folder, channels=1), images(channels=1)
    assert tuple(found.space(1, 8)) == (2, 4, 4)
    torch.testing.assert_close(found.encode(x), codec(folder).encode(x.expand(-1, 3, -1, -1)))
    assert found.decode(found.encode(x)).shape == x.shape


def test_a_size_that_cannot_be_encoded_is_refused(folder, grey):
    with pytest.raises(ValueError, match="a multiple of 2, got 7"):
        codec(folder).space(3, 7)
    with pytest.raises(ValueError, match="images with 1 channels, the data's have 3"):
        codec(grey).space(3, 8)


def test_training_sees_samples_of_the_posterior(folder):
    found, x = codec(folder), images(1).expand(400, -1, -1, -1)
    torch.manual_seed(0)
    mean, std = found.distribution(x[:1])[0]
    fresh, cached = found({"image": x}), found({"latent": torch.stack([mean, std]).half().expand(400, -1, -1, -1, -1)})
    for drawn in (fresh, cached):
        torch.testing.assert_close(drawn.mean(0), mean, atol=float(std.max()) * 0.25, rtol=0)
        torch.testing.assert_close(drawn.std(0), std, atol=0, rtol=0.2)


def test_files_that_are_no_autoencoder_are_one_line(tmp_path, folder):
    with pytest.raises(
        UserError, match=r"autoencoder: .*nowhere does not exist; get config.json, diffusion_pytorch_model.safetensors"
    ):
        codec(tmp_path / "nowhere")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match=r"has no config.json with diffusion_pytorch_model.safetensors"):
        codec(other)
    (other / "diffusion_pytorch_model.safetensors").write_bytes((folder / "diffusion_pytorch_model.safetensors").read_bytes())
    (other / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config.json is damaged or another kind of file"):
        codec(other)
    config = json.loads((folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"_class_name": "VQModel"}))
    with pytest.raises(UserError, match="network of type VQModel, not AutoencoderKL"):
        codec(other)
    (other / "config.json").write_text(json.dumps(config | {"layers_per_block": 2}))
    with pytest.raises(UserError, match=r"do not fit their config.json: missing or of another size are"):
        codec(other).encode(images())
    (other / "config.json").write_text(json.dumps(config))
    (other / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read the weights in"):
        codec(other).encode(images())


def test_other_weights_than_noted_are_refused_with_both_hashes(tmp_path, folder):
    digest, other = FrozenAutoencoder(str(folder)).digest, save(tmp_path / "other", seed=1)
    codec(folder, digest=digest)
    with pytest.raises(UserError) as error:
        codec(other, digest=digest)
    assert str(other) in str(error.value)
    assert digest[:16] in str(error.value)
    assert FrozenAutoencoder(str(other)).digest[:16] in str(error.value)


def resident(num=6):
    return ResidentImages(images(num), torch.arange(num))


@pytest.mark.parametrize("flip", [False, True])
def test_latents_that_are_kept_are_those_of_the_images(tmp_path, folder, flip):
    found = codec(folder)
    latents = kept(found, resident(), flip, "data", tmp_path, CPU)
    expected = found.distribution(images())
    if flip:
        expected = torch.cat([expected, found.distribution(images().flip(-1))])
    torch.testing.assert_close(latents, expected.half(), rtol=2e-3, atol=2e-3)
    again = codec(folder)
    again.autoencoder._model = "is not asked"
    assert torch.equal(kept(again, resident(), flip, "data", tmp_path, CPU), latents)


def test_the_kept_file_is_in_safetensors_format(tmp_path, folder):
    from safetensors import safe_open

    latents = kept(codec(folder), resident(), False, "data", tmp_path, CPU)
    (path,) = tmp_path.iterdir()
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("latents"), latents)
        assert file.metadata()["digest"] == codec(folder).digest


def test_a_damaged_file_is_made_again_and_one_of_another_encoder_refused(tmp_path, folder, caplog):
    first = kept(codec(folder), resident(), False, "data", tmp_path / "a", CPU).clone()
    (path,) = (tmp_path / "a").iterdir()
    for content in (path.read_bytes()[:-2], b"", b"\xff" * 100):
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert torch.equal(kept(codec(folder), resident(), False, "data", tmp_path / "a", CPU), first)
        assert f"{path} is damaged, so it is made again" in caplog.text
        caplog.clear()
    kept(codec(save(tmp_path / "other", seed=1)), resident(), False, "data", tmp_path / "b", CPU)
    (other,) = (tmp_path / "b").iterdir()
    other.replace(path)
    with pytest.raises(UserError, match=rf"{path.name}: holds latents of another digest: need .*, found .*; delete it"):
        kept(codec(folder), resident(), False, "data", tmp_path / "a", CPU)


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"codec.cache_dir: cannot write .*codec.cache=false"):
        kept(codec(folder), resident(), False, "data", tmp_path / "file" / "cache", CPU)


def test_spread_is_that_of_samples():
    torch.manual_seed(0)
    mean = torch.randn(500, 2, 4, 4) * torch.tensor([1.0, 3.0])[:, None, None] + torch.tensor([0.0, 5.0])[:, None, None]
    std = torch.rand(500, 2, 4, 4)
    found = spread(torch.stack([mean, std], dim=1).split(64))
    drawn = (mean + std * torch.randn_like(mean)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found[0], drawn.mean(1), atol=0.05, rtol=0)
    torch.testing.assert_close(found[1], drawn.std(1), rtol=0.02, atol=0)
    assert found[2] == 500


@pytest.mark.parametrize("cache", [False, True])
def test_the_codec_learns_the_spread_once(tmp_path, folder, cache):
    found, data = codec(folder, channels=1, cache=cache, cache_dir=str(tmp_path)), toy.digits()
    take_latents(found, data, CPU, with_images=False)
    latents = found({"image": data.train_set.images(range(200))})
    assert float(latents.mean()) == pytest.approx(0, abs=0.1)
    assert float(latents.std()) == pytest.approx(1, abs=0.1)
    assert int(found.num_measured) == len(data.train_set)
    found.measure(torch.zeros(2), torch.ones(2), 3)
    take_latents(found, data, CPU, with_images=False)
    assert int(found.num_measured) == 3


@pytest.mark.parametrize("with_images", [False, True])
def test_batches_have_the_latents_of_mirrored_images(with_images):
    data, latents = resident(8), torch.arange(16.0)
    order = EpochOrder(8, 4, 0)
    batches = list(ImageLoader(Latents(data, latents, with_images), order, flip=True))
    for batch, (indices, flips) in zip(batches, order.batches(0, True), strict=False):
        assert flips is not None
        assert batch["latent"].tolist() == [float(i) + 8 * bool(f) for i, f in zip(indices, flips, strict=True)]
        assert batch["label"].tolist() == indices.tolist()
        assert ("image" in batch) == with_images
        if with_images:
            expected = [image.flip(-1) if flip else image for image, flip in zip(data.images(indices), flips, strict=True)]
            assert torch.equal(batch["image"], torch.stack(expected))
    assert any(bool(flips.any()) for _, (_, flips) in zip(batches, order.batches(0, True), strict=False))


def test_a_latent_is_known_where_all_its_pixels_are():
    known = known_pixels("left", 8)
    assert torch.equal(known_latents(known, (2, 8, 8), "left"), known)
    known[0, 0, 7] = False
    found = known_latents(known, (2, 4, 4), "left")
    assert found[0].tolist() == [[False, False, True, False]] + [[False, False, True, True]] * 3
    with pytest.raises(UserError, match=r"task.mask=center: nothing is known"):
        known_latents(known_pixels("center", 8), (2, 1, 1), "center")
    with pytest.raises(UserError, match="vectors"):
        known_latents(known, (5,), "left")


@pytest.fixture
def command(monkeypatch, tmp_path, capsys, texts):
    """A command in this process, in a folder with captioned photos: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    lines = []
    for index in range(24):
        Image.new("RGB", (20, 18), (10 * index, 90, 250 - 10 * index)).save(tmp_path / "photos" / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": ["a cat", "a red heart", "dog"][index % 3]}))
    (tmp_path / "photos" / "metadata.jsonl").write_text("\n".join(lines))

    def run(name, *words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        code = execute(importlib.import_module(name).main.__wrapped__, App(runs.ROOT / "conf", name))
        return code, *capsys.readouterr()

    return run


def smoke(folder, texts, *more):
    encoder = (f"conditioner.encoder.name={texts}", "conditioning.tokens=8", "conditioner.encoder.max_length=9")
    return ("experiment=smoke/latent_text", "data.root=photos", f"codec.name={folder}", *encoder, "logger=csv", *more)


def test_the_smoke_experiment_trains_draws_and_edits(command, tmp_path, folder, texts):
    code, _, err = command("train", *smoke(folder, texts, "hydra.run.dir=run"))
    assert code == 0, err
    saved = runs.checkpoint(tmp_path / "run")
    assert saved["global_step"] == 4
    assert saved["config"]["module"]["codec"]["digest"] == FrozenAutoencoder(str(folder)).digest
    assert int(saved["state_dict"]["codec.num_measured"]) > 0
    assert (tmp_path / "run" / "film.gif").is_file()
    assert list((tmp_path / "outputs" / "cache" / "latents").glob("*.safetensors"))
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
    encoder = (f"conditioner.encoder.name={texts}", "conditioning.tokens=8", "conditioner.encoder.max_length=9")
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
    save(home, seed=1)
    code, _, err = command("sample", *draw)
    assert code == 2
    assert "are not those that the latents are of" in err
    assert len(err.strip().splitlines()) == 1
    code, _, err = command("train", "resume=run", "trainer.max_steps=4")
    assert code == 2
    assert "are not those that the latents are of" in err


def test_codec_name_of_a_model_without_one_is_refused(command, tmp_path, folder):
    words = runs.words(
        "trainer.max_steps=1", "callbacks.fid=null", "callbacks.film=null", "callbacks.samples=null", folder=tmp_path / "run"
    )
    assert command("train", *words)[0] == 0
    code, _, err = command("sample", "checkpoint=run/checkpoints/last.ckpt", f"codec_name={folder}")
    assert code == 2
    assert "not one in the latents of an autoencoder" in err


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
    one, two = ((next((tmp_path / str(devices)).iterdir())).read_bytes() for devices in (1, 2))
    assert len(one) == len(two)
    first, second = (torch.frombuffer(bytearray(content[-1000:]), dtype=torch.float16).float() for content in (one, two))
    torch.testing.assert_close(first, second, rtol=2e-3, atol=2e-3)
    single, double = (runs.checkpoint(tmp_path / f"run{devices}")["state_dict"] for devices in (1, 2))
    for name in ("codec.mean", "codec.std", "codec.num_measured"):
        torch.testing.assert_close(single[name], double[name], rtol=1e-3, atol=1e-4)
