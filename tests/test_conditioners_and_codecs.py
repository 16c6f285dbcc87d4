"""Every conditioner and codec of conf/: shapes are those that it announces, and nothing is random where it must not be."""

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import runs
import tiny_autoencoders
import tiny_texts
from alphabar.config.build import build
from alphabar.diffusion.noise import ImageNoise
from alphabar.runs.checkpoints.checkpoint import FrozenPartPaths
from parts import choices

CAPTIONS = ["a cat", "dog", "red heart"]
SIDE = 32


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Returns what a user has to say of a part whose frozen networks lie in files, by the key that says it."""
    home = tmp_path_factory.mktemp("frozen")
    clip = tiny_texts.make("clip", home / "clip")
    encoder = {"conditioner.encoder.name": tiny_texts.make("bert", home / "text"), "conditioner.encoder.max_length": 9}
    return {
        ("conditioner", "text"): {**encoder, "conditioner.cache_dir": home / "cache", "conditioning.tokens": 8},
        ("conditioner", "image_embedding"): {"clip": clip, "conditioning.vector": 8},
        ("codec", "image_embedding"): {"clip": clip},
        ("codec", "autoencoder"): {"codec.name": tiny_autoencoders.save(home / "autoencoder")},
    }


def configured(group: str, name: str, settings: dict[str, object]) -> DictConfig:
    """Returns a file of conf/ with what it takes from others, for images of 3 x SIDE x SIDE in ten classes."""
    node = OmegaConf.load(runs.ROOT / "conf" / group / f"{name}.yaml")
    config = OmegaConf.create(
        {"shape": {"channels": 3, "resolution": SIDE}, "num_classes": 10, "class_names": None, "paths": {"cache": "cache"}}
    )
    config.vector_length = 2
    config = OmegaConf.merge(config, node if group in node else {group: node})
    for key, value in settings.items():
        OmegaConf.update(config, key, value if isinstance(value, int) else str(value))
    assert isinstance(config, DictConfig)
    return config


def batch(num: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    vectors = torch.rand(num, 2, generator=generator)
    return {"image": images, "label": torch.arange(num), "caption": torch.arange(num), "vector": vectors}


def shapes(cond) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in (cond or {}).items()}


@pytest.mark.parametrize("name", choices("conditioner"))
def test_a_conditioner_makes_conditions_of_the_announced_shapes(name, stored):
    config = configured("conditioner", name, stored.get(("conditioner", name), {}))
    conditioner = build(config.conditioner, "conditioner")
    conditioner.attach_captions(CAPTIONS)
    expected = shapes(conditioner.null(3))
    widths = {"vector": 1, "tokens": 2, "image": 1}
    assert {key: width for key, width in config.conditioning.items() if width} == {
        key: shape[widths[key]] for key, shape in expected.items() if key != "mask"
    }
    assert shapes(conditioner.train()(batch())) == expected
    assert shapes(conditioner.eval()(batch())) == expected
    if "image" in expected:
        assert expected["image"][2:] == (SIDE, SIDE)
    if conditioner.classes:
        assert shapes(conditioner.from_prompts(conditioner.classes[:3])) == expected


@pytest.mark.parametrize("name", choices("conditioner"))
def test_a_conditioner_in_evaluation_depends_on_the_image_and_its_noise_alone(name, stored):
    config = configured("conditioner", name, stored.get(("conditioner", name), {}))
    conditioner = build(config.conditioner, "conditioner").eval()
    conditioner.attach_captions(CAPTIONS)
    whole = conditioner.for_evaluation(batch(), ImageNoise(1, [0, 1, 2])) or {}
    part = conditioner.for_evaluation({key: value[1:] for key, value in batch().items()}, ImageNoise(1, [1, 2])) or {}
    for key, value in whole.items():
        torch.testing.assert_close(part[key], value[1:])
    assert set(conditioner.frozen_parts) <= set(FrozenPartPaths._fields)


@pytest.mark.parametrize("name", choices("codec"))
def test_a_codec_encodes_into_its_space_and_back(name, stored):
    config = configured("codec", name, stored.get(("codec", name), {}))
    codec, images = build(config.codec, "codec").eval(), batch()["image"]
    space = tuple(codec.space(3, SIDE, SIDE))
    x = codec.encode(images)
    assert x.dtype == torch.float32
    assert x.shape == (3, *space)
    assert torch.equal(codec.encode(images), x)
    assert codec({"image": images}).shape == x.shape
    decoded = codec.decode(x)
    if codec.makes_images:
        assert (decoded.dtype, decoded.shape) == (torch.uint8, images.shape)
    if codec.is_bounded:
        assert x.abs().max() <= 1
    if codec.has_pixel_likelihood:
        assert torch.equal(decoded, images)
    if codec.latents is not None:
        assert codec.latents.distribution(images).shape == (3, 2, *space)
    assert set(codec.frozen_parts) <= set(FrozenPartPaths._fields)
