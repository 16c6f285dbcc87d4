"""CLIPs: what they give is what transformers gives, nothing around them matters, and bad folders are named in one line."""

import json
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorFast, CLIPModel, CLIPTokenizer

import tiny_models
import tiny_texts
from alphabar.config.build import build
from alphabar.config.former_names import upgrade_config
from alphabar.errors import UserError
from alphabar.models.clip.pretrained import PretrainedCLIP
from alphabar.models.clip.small import SmallCLIP, save_clip
from alphabar.models.clip.stored import StoredCLIP
from alphabar.models.clip.towers import Towers, pool
from alphabar.models.codecs.clip_embeddings import CLIPEmbeddings
from alphabar.models.codecs.pixels import Pixels
from alphabar.models.conditioners.image_embedding import ImageEmbedding
from alphabar.models.frozen import silence
from alphabar.models.text import TextEncoder
from alphabar.runs.checkpoints.checkpoint import frozen_parts
from alphabar.runs.resume import set_given_paths

CPU = torch.device("cpu")
TEXTS = ["a cat", "a", "red heart and dog", ""]


def small(folder: Path, encoder: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = Towers(TextEncoder(str(encoder), 9), text_channels=8, width=6, resolution=16, channels=16, hidden=12)
        for parameter in towers.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.5)
    save_clip(towers, folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_texts.make("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return tiny_texts.make("clip", tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, encoder):
    return small(tmp_path_factory.mktemp("small") / "clip", encoder)


def complaint(work, error=UserError) -> str:
    with pytest.raises(error) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_clip_gives_what_transformers_gives(published, tmp_path):
    shutil.copytree(published, tmp_path / "clip")
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "size": {"shortest_edge": 8}}
    colours |= {"crop_size": {"height": 8, "width": 8}, "resample": 3}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(colours))
    clip = PretrainedCLIP(str(tmp_path / "clip"))
    images = tiny_models.pictures(height=24, width=24)
    with silence():
        model = CLIPModel.from_pretrained(tmp_path / "clip").eval()
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "clip")
    pixels = CLIPImageProcessorFast(**colours)(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        for text, vector in zip(["a cat", "dog"], clip.texts(["a cat", "dog"], CPU), strict=True):
            alone = model(**tokenizer([text], return_tensors="pt"), pixel_values=pixels)
            torch.testing.assert_close(vector, alone.text_embeds[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clip.images(images), alone.image_embeds, rtol=0, atol=5e-4)
    assert clip.width == 8
    plain = PretrainedCLIP(str(published))
    assert plain.digest != clip.digest
    assert (plain.images(images) - clip.images(images)).abs().max() > 5e-3


@pytest.mark.parametrize("kind", ["published", "folder"])
def test_vectors_have_length_one_and_depend_on_nothing_around(kind, request):
    name = str(request.getfixturevalue(kind))
    images = tiny_models.pictures(num=3, height=12, width=12)
    expected, texts = StoredCLIP(name).images(images), StoredCLIP(name).texts(["a cat", "dog"], CPU)
    assert expected.shape == (3, StoredCLIP(name).width)
    assert texts.shape == (2, StoredCLIP(name).width)
    for vectors in (expected, texts):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
        assert vectors.std(0).mean() > 1e-3
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        clip = StoredCLIP(name)
        found = clip.images(images)
        assert torch.equal(clip.texts(["a cat", "dog"], CPU), texts)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found, expected)
    (found * nn.Parameter(torch.ones(1))).sum().backward()
    torch.testing.assert_close(StoredCLIP(name).images(images[:, :1]), StoredCLIP(name).images(images[:, :1].repeat(1, 3, 1, 1)))


def test_images_of_any_size_and_no_floats(folder):
    clip = SmallCLIP(str(folder))
    large = tiny_models.pictures(num=2, height=8, width=8)
    same = large.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert F.cosine_similarity(clip.images(large), clip.images(same)).min() > 0.9
    for wrong in (large.float(), large[0], large[:, :2]):
        assert "need torch.uint8 images [B, 1 or 3, H, W], got" in complaint(lambda wrong=wrong: clip.images(wrong), ValueError)


def test_a_text_is_the_mean_of_its_tokens(encoder, folder):
    tokens, mask = TextEncoder(str(encoder), 9)(TEXTS, CPU)
    towers = SmallCLIP(str(folder))._loaded
    means = torch.stack([row[here].mean(0) for row, here in zip(tokens, mask, strict=True)])
    expected = F.normalize(towers.reading(F.normalize(means, dim=1)), dim=1)
    torch.testing.assert_close(SmallCLIP(str(folder)).texts(TEXTS, CPU), expected, rtol=1e-2, atol=2e-3)


def test_the_digest_is_of_the_weights_and_of_the_text_encoder(folder, encoder, tmp_path):
    other = small(tmp_path / "other", encoder, seed=1)
    again = shutil.copytree(folder, tmp_path / "again")
    assert SmallCLIP(str(folder)).digest == StoredCLIP(str(again)).digest
    assert SmallCLIP(str(folder)).digest != SmallCLIP(str(other)).digest


def test_a_pair_is_replaced_as_a_whole(encoder, tmp_path, monkeypatch):
    folder = small(tmp_path / "clip", encoder)
    before = SmallCLIP(str(folder)).digest
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", mock.Mock(side_effect=OSError("the disk is full")))  # config.json, after the weights
        with pytest.raises(OSError, match="full"):
            small(folder, encoder, seed=1)
    assert SmallCLIP(str(folder)).digest == before
    small(folder, encoder, seed=1)
    assert SmallCLIP(str(folder)).digest != before
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_a_pair_that_moved_is_followed_wherever_a_run_names_it():
    parts = {"codec": {"clip": {"name": "old"}}, "conditioner": {"clip": {"name": "old"}, "encoder": {"name": "other"}}}
    saved = OmegaConf.create({**parts, "module": parts, "codec_name": None, "clip_name": "new"})
    set_given_paths(saved)
    for node in (saved, saved.module):
        assert node.codec.clip.name == node.conditioner.clip.name == "new"
        assert node.conditioner.encoder.name == "other"
    saved.codec_name = "new"
    assert "not one in the latents of an autoencoder" in complaint(lambda: set_given_paths(saved))


def test_bad_folders_are_one_line(folder, encoder, published, tmp_path):
    def broken(name, file, content):
        made = shutil.copytree(folder, tmp_path / name)
        if content is None:
            (made / file).unlink()
        else:
            (made / file).write_bytes(content)
        return SmallCLIP(str(made))

    images = tiny_models.pictures(num=1, height=8, width=8)
    gone = SmallCLIP(str(tmp_path / "gone"))
    assert complaint(lambda: gone.width).endswith("gone/config.json does not exist; experiment=contrastive writes one as RUN/clip")
    assert "config.json is damaged" in complaint(lambda: broken("a", "config.json", b"{}").width)
    assert "has no model.safetensors" in complaint(lambda: broken("b", "model.safetensors", None).digest)
    assert "has no weights that fit its config.json" in complaint(lambda: broken("c", "model.safetensors", b"x").images(images))
    config = json.loads((folder / "config.json").read_text())
    moved = {**config, "text_encoder": str(tiny_texts.make("t5", tmp_path / "t5"))}
    clip = broken("d", "config.json", json.dumps(moved).encode())
    assert "was trained with another text encoder than" in complaint(lambda: clip.texts(["a"], CPU))
    narrow = broken("e", "config.json", json.dumps({**config, "width": 7}).encode())
    assert "has no weights that fit its config.json" in complaint(lambda: narrow.images(images))
    nowhere = complaint(lambda: StoredCLIP(str(tmp_path / "nowhere")).width)
    assert "CLIP" in nowhere
    assert "does not exist" in nowhere
    bert = complaint(lambda: StoredCLIP(str(encoder)).width)
    assert bert.endswith("holds a network of type bert, not clip with both towers")
    bad = shutil.copytree(published, tmp_path / "bad")
    (bad / "preprocessor_config.json").write_text('{"image_mean": [1], "image_std": [1, 1, 1]}')
    assert "does not give image_mean and image_std" in complaint(lambda: StoredCLIP(str(bad)).images(images))
    assert "need a text of at most 12 tokens" in complaint(lambda: StoredCLIP(str(published)).texts(["cat " * 30], CPU))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 20}, "need resolution to be a multiple of 8, got resolution=20"),
        ({"channels": 24}, "need channels to be a multiple of 16, got channels=24"),
        ({"width": 0}, "need text_channels, width and hidden >= 1"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_towers_that_make_no_sense(encoder, settings, words):
    assert words in complaint(lambda: Towers(TextEncoder(str(encoder), 9), **settings), ValueError)


def test_models_on_a_clip_of_earlier_versions_still_load(folder, tmp_path):
    old = shutil.copytree(folder, tmp_path / "pair")
    settings = json.loads((old / "config.json").read_text()) | {"model_type": "alphabar_pair"}
    (old / "config.json").write_text(json.dumps(settings))
    pair = {"_target_": "alphabar.models.pairs.stored.StoredPair", "name": str(old)}
    parts = {
        "codec": {"_target_": "alphabar.models.codecs.embedding.ImageEmbedding", "pair": pair},
        "conditioner": {"_target_": "alphabar.models.conditioners.image_embedding.ImageEmbedding", "pair": pair, "channels": 6},
    }
    config = OmegaConf.create(upgrade_config({"pair": str(old), "pair_name": str(old), "module": parts}))
    assert config.clip == config.clip_name == str(old)
    assert set(frozen_parts(config)["clip_name"]) == {"module.codec.clip", "module.conditioner.clip"}
    codec, conditioner = build(config.module.codec, "codec"), build(config.module.conditioner, "conditioner")
    images = tiny_models.pictures(height=8, width=8)
    assert torch.equal(codec.clip.images(images), SmallCLIP(str(folder)).images(images))
    conditioner.must_follow(codec, 3, 8, 8)


def test_neither_codec_nor_conditioner_saves_the_clip(folder):
    clip = StoredCLIP(str(folder))
    assert CLIPEmbeddings(clip).state_dict() == {}
    assert list(ImageEmbedding(clip, 6).state_dict()) == ["nothing"]
    for dropout in (0.0, 0.1):  # what no loss uses must not be trained, or several devices wait for its gradient
        assert ImageEmbedding(clip, 6, dropout).nothing.requires_grad == (dropout > 0)


def test_the_codec_scales_vectors_to_a_mean_square_of_one(folder):
    codec, images = CLIPEmbeddings(StoredCLIP(str(folder))), tiny_models.pictures(num=4, height=12, width=12)
    x = codec.encode(images)
    assert tuple(codec.space(3, 12, 12)) == x.shape[1:] == (6,)
    torch.testing.assert_close(x.square().mean(1), torch.ones(4))
    torch.testing.assert_close(codec.decode(3 * x), codec.clip.images(images))
    assert torch.equal(codec({"image": images}), x)
    kept = codec.distribution(images).half()
    torch.testing.assert_close(codec({"latent": kept}), x, rtol=1e-3, atol=1e-3)
    assert (codec.is_bounded, codec.makes_images, codec.is_measured) == (False, False, True)
    assert CLIPEmbeddings(codec.clip, cache=False).cache_dir is None


def test_the_conditioner_takes_images_or_their_vectors(folder):
    clip = StoredCLIP(str(folder))
    conditioner, images = ImageEmbedding(clip, 6, dropout=0.5), tiny_models.pictures(num=64, height=8, width=8)
    nn.init.constant_(conditioner.nothing, 7.0)
    x = CLIPEmbeddings(clip).encode(images)
    assert torch.equal(conditioner.eval()({"image": images})["vector"], x)
    for mode in (True, False):
        made = conditioner.train(mode).from_image(images, None)["vector"]
        assert torch.equal(made, x)
        torch.testing.assert_close(conditioner.from_image(5 * clip.images(images), None)["vector"], x)
    torch.manual_seed(0)
    vector = conditioner.train()({"image": images})["vector"]
    dropped = (vector == 7.0).all(1)
    assert 16 < dropped.sum() < 48
    assert torch.equal(vector[~dropped], x[~dropped])
    vector.sum().backward()
    assert float(conditioner.nothing.grad.sum()) == 6 * int(dropped.sum())
    assert torch.equal(conditioner.null(3)["vector"], torch.full((3, 6), 7.0))
    assert "need uint8 images or vectors [B, 6], got torch.float32 [64, 5]" in complaint(
        lambda: conditioner.from_image(x[:, :5], None), ValueError
    )
    assert "on images, not on text" in complaint(lambda: conditioner.from_prompts(["a cat"]), ValueError)


def test_a_decoder_follows_images_and_vectors_of_its_own_pair_alone(folder, encoder, tmp_path):
    clip, other = StoredCLIP(str(folder)), StoredCLIP(str(small(tmp_path / "other", encoder, seed=1)))
    conditioner = ImageEmbedding(clip, 6)
    conditioner.must_follow(Pixels(), 3, 16, 16)
    conditioner.must_follow(CLIPEmbeddings(StoredCLIP(str(folder))), 3, 16, 16)
    message = complaint(lambda: conditioner.must_follow(CLIPEmbeddings(other), 3, 16, 16), ValueError)
    assert other.digest[:12] in message
    assert clip.digest[:12] in message


@pytest.mark.parametrize("make", [CLIPEmbeddings, lambda clip, digest: ImageEmbedding(clip, 6, digest=digest)])
def test_another_pair_than_that_of_training_is_refused(folder, make):
    clip = StoredCLIP(str(folder))
    make(clip, clip.digest)
    message = complaint(lambda: make(clip, "f" * 64), ValueError)
    assert message == f"this was trained with another CLIP, of digest ffffffffffff, not {clip.digest[:12]}"


def test_a_network_for_another_width_is_refused(folder):
    message = complaint(lambda: ImageEmbedding(StoredCLIP(str(folder)), 5), ValueError)
    assert message == "this CLIP gives vectors of 6 numbers, not 5: set conditioning.vector=6"
    assert "need 0 <= dropout <= 1" in complaint(lambda: ImageEmbedding(StoredCLIP(str(folder)), 6, dropout=2.0), ValueError)


def test_pooled_texts_have_length_one(encoder):
    from alphabar.models.embeddings import concatenate, encode_texts

    pooled = pool(concatenate(encode_texts(TextEncoder(str(encoder), 9), TEXTS, CPU)))
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(len(TEXTS)))
