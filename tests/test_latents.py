"""Diffusion in the latents of an autoencoder: its files, its codec, and latents that are kept."""

import errno
import json
import logging
import os
from unittest import mock

import pytest
import torch
from diffusers import AutoencoderKL

import toy
from alphabar.data import latents
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.latents import cached_latents, mean_and_std, moment_sums, prepare_latents
from alphabar.data.loading.loader import ImageLoader, LatentBatches
from alphabar.data.loading.order import EpochOrder
from alphabar.errors import UserError
from alphabar.models import autoencoder_files
from alphabar.models.autoencoder_files import FrozenAutoencoder
from alphabar.models.codecs.autoencoder import Autoencoder
from alphabar.sampling.tasks.mask import known_latents, known_pixels
from tiny_autoencoders import save

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("vae") / "colours")


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return save(tmp_path_factory.mktemp("vae") / "grey", channels=1)


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


def test_only_so_many_pixels_go_through_it_at_once(folder, monkeypatch):
    found, x = codec(folder), images()
    latents = found.encode(x)
    decoded = found.decode(latents)
    model, seen = found.autoencoder._loaded, []
    for name in ("encode", "decode"):
        original = getattr(model, name)
        monkeypatch.setattr(model, name, lambda part, original=original: seen.append(len(part)) or original(part))
    for pixels, sizes in {130: [2, 2, 2], 1: [1] * 6}.items():
        monkeypatch.setattr(autoencoder_files, "PIXELS", pixels)
        torch.testing.assert_close(found.encode(x), latents)
        assert (found.decode(latents).int() - decoded.int()).abs().max() <= 1
        assert seen == [*sizes, *sizes]
        seen.clear()


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
    assert tuple(found.space(1, 8, 8)) == (2, 4, 4)
    torch.testing.assert_close(found.encode(x), codec(folder).encode(x.expand(-1, 3, -1, -1)))
    assert found.decode(found.encode(x)).shape == x.shape


def test_a_size_that_cannot_be_encoded_is_refused(folder, grey):
    with pytest.raises(ValueError, match="a multiple of 2, got 7"):
        codec(folder).space(3, 7, 7)
    with pytest.raises(ValueError, match="images with 1 channels, the data's have 3"):
        codec(grey).space(3, 8, 8)


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
def test_latents_that_are_cached_are_those_of_the_images(tmp_path, folder, flip):
    found = codec(folder)
    latents = cached_latents(found, resident(), flip, "data", tmp_path, CPU)
    expected = found.distribution(images())
    if flip:
        expected = torch.cat([expected, found.distribution(images().flip(-1))])
    torch.testing.assert_close(latents, expected.half(), rtol=2e-3, atol=2e-3)
    again = codec(folder)
    again.autoencoder._loaded = "is not asked"
    assert torch.equal(cached_latents(again, resident(), flip, "data", tmp_path, CPU), latents)


def test_a_damaged_file_is_made_again_and_one_of_another_encoder_is_another_file(tmp_path, folder, caplog):
    first = cached_latents(codec(folder), resident(), False, "data", tmp_path, CPU).clone()
    (path,) = tmp_path.glob("*.pt")
    intact = path.read_bytes()
    for content in (intact[:-2], intact[:-1] + b"?", b"", b"\xff" * 100):
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert torch.equal(cached_latents(codec(folder), resident(), False, "data", tmp_path, CPU), first)
        assert f"cannot use {path}, so it is made again: it is damaged" in caplog.text
        assert path.read_bytes() == intact
        caplog.clear()
    cached_latents(codec(save(tmp_path / "other", seed=1)), resident(), False, "data", tmp_path, CPU)
    assert path.read_bytes() == intact
    assert len(list(tmp_path.glob("latents-*.pt"))) == 2


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"codec.cache_dir: cannot write .*codec.cache=false"):
        cached_latents(codec(folder), resident(), False, "data", tmp_path / "file" / "cache", CPU)


def test_a_disk_that_fills_up_is_one_line(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"codec.cache_dir: cannot write .*No space left on device.*codec.cache=false"):
        cached_latents(codec(folder), resident(), False, "data", tmp_path / "cache", CPU)
    assert list((tmp_path / "cache").iterdir()) == []


def test_processes_share_the_measuring(folder, monkeypatch):
    alone, data, shares = codec(folder, channels=1, cache=False), toy.digits(), []
    prepare_latents(alone, data, CPU, with_images=False)
    monkeypatch.setattr(latents, "sum_over_ranks", lambda values: shares.append(values) or values)
    for rank in (0, 1):
        monkeypatch.setattr(latents, "rank_and_size", lambda rank=rank: (rank, 2))
        prepare_latents(codec(folder, channels=1, cache=False), data, CPU, with_images=False)
    for found, expected in zip(mean_and_std(sum(shares)), (alone.mean, alone.std), strict=True):
        torch.testing.assert_close(found, expected)


def test_latents_beyond_half_precision_can_only_not_be_cached(tmp_path, folder, monkeypatch):
    large = torch.full((1, 2, 2, 4, 4), 1e6)
    monkeypatch.setattr(Autoencoder, "distribution", lambda self, images: large.expand(len(images), -1, -1, -1, -1))
    found, data = codec(folder, channels=1, cache=False), toy.digits()
    prepare_latents(found, data, CPU, with_images=False)
    torch.testing.assert_close(found.mean, torch.full((2,), 1e6))
    with pytest.raises(UserError, match="beyond half precision"):
        prepare_latents(codec(folder, channels=1, cache_dir=str(tmp_path)), data, CPU, with_images=False)


def test_mean_and_std_are_those_of_samples():
    torch.manual_seed(0)
    mean = torch.randn(500, 2, 4, 4) * torch.tensor([1.0, 3.0])[:, None, None] + torch.tensor([0.0, 5.0])[:, None, None]
    std = torch.rand(500, 2, 4, 4)
    found = mean_and_std(moment_sums(torch.stack([mean, std], dim=1).split(64)))
    drawn = (mean + std * torch.randn_like(mean)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found[0], drawn.mean(1), atol=0.05, rtol=0)
    torch.testing.assert_close(found[1], drawn.std(1), rtol=0.02, atol=0)


@pytest.mark.parametrize("cache", [False, True])
def test_the_codec_measures_its_latents_once(tmp_path, folder, cache):
    found, data = codec(folder, channels=1, cache=cache, cache_dir=str(tmp_path)), toy.digits()
    prepare_latents(found, data, CPU, with_images=False)
    latents = found({"image": data.train_set.images(range(200))})
    assert float(latents.mean()) == pytest.approx(0, abs=0.1)
    assert float(latents.std()) == pytest.approx(1, abs=0.1)
    assert int(found.num_measured) == len(data.train_set)
    found.measure(torch.zeros(2), torch.ones(2), 3)
    prepare_latents(found, data, CPU, with_images=False)
    assert int(found.num_measured) == 3


@pytest.mark.parametrize("with_images", [False, True])
def test_batches_have_the_latents_of_mirrored_images(with_images):
    data, latents = resident(8), torch.arange(16.0)
    order = EpochOrder(8, 4, 0)
    batches = list(ImageLoader(LatentBatches(data, latents, with_images), order, flip=True))
    for batch, (indices, flips, _) in zip(batches, order.batches(0, True), strict=False):
        assert flips is not None
        assert batch["latent"].tolist() == [float(i) + 8 * bool(f) for i, f in zip(indices, flips, strict=True)]
        assert batch["label"].tolist() == indices.tolist()
        assert ("image" in batch) == with_images
        if with_images:
            expected = [image.flip(-1) if flip else image for image, flip in zip(data.images(indices), flips, strict=True)]
            assert torch.equal(batch["image"], torch.stack(expected))
    assert any(bool(flips.any()) for _, (_, flips, _) in zip(batches, order.batches(0, True), strict=False))


def test_a_latent_is_known_where_all_its_pixels_are():
    known = known_pixels("left", 8, 8)
    assert torch.equal(known_latents(known, (2, 8, 8), "left"), known)
    known[0, 0, 7] = False
    found = known_latents(known, (2, 4, 4), "left")
    assert found[0].tolist() == [[False, False, True, False]] + [[False, False, True, True]] * 3
    with pytest.raises(UserError, match=r"task.mask=center: nothing is known"):
        known_latents(known_pixels("center", 8, 8), (2, 1, 1), "center")
    with pytest.raises(UserError, match="vectors"):
        known_latents(known, (5,), "left")
