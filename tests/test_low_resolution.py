"""The image at a low resolution as a condition."""

import pytest
import torch
from torch.nn.functional import interpolate

from alphabar.diffusion.noise import ImageNoise
from alphabar.models.codecs.pixels import Pixels
from alphabar.models.conditioners.low_resolution import LowResolution
from alphabar.models.networks.blocks import sinusoidal_embedding


def conditioner(**settings):
    return LowResolution(**{"channels": 3, "full_resolution": 16, "resolution": 4, "width": 8, **settings})


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_without_noise_it_is_the_image_made_small_and_large_again(images):
    cond = conditioner(sample_level=0.0).eval()({"image": images})
    low = interpolate(images.float(), (4, 4), mode="bicubic", antialias=True).round().clamp(0, 255) / 127.5 - 1
    assert torch.allclose(cond["image"], interpolate(low, (16, 16), mode="bilinear"), atol=1e-5)
    assert torch.equal(cond["vector"], sinusoidal_embedding(torch.zeros(6), 8, 0))


def test_noise_is_of_the_low_resolution_and_keeps_the_variance():
    grey = torch.full((4000, 1, 8, 8), 255, dtype=torch.uint8)  # x = 1
    conditioned = LowResolution(1, 8, 4, width=8, max_level=0.9, sample_level=0.6)
    low = conditioned.from_image(grey, ImageNoise(0, range(4000)))["image"][
        :, :, 1::2, 1::2
    ]  # bilinear: 3/4 of one pixel, 1/4 of the next
    assert low.mean().item() == pytest.approx(0.8, abs=0.01)  # sqrt(1 - 0.6^2)
    middle = low[:, :, 0, 0]  # of four pixels, (9, 3, 3, 1) / 16
    assert middle.std().item() == pytest.approx(0.6 * (100**0.5) / 16, rel=0.05)


def test_the_vector_is_of_the_level_that_the_noise_has(images):
    torch.manual_seed(0)
    conditioned = conditioner(max_level=0.5).train()
    grey = torch.full((3000, 3, 16, 16), 128, dtype=torch.uint8)  # nearly x = 0, so that all there is is noise
    cond = conditioned({"image": grey})
    angles = cond["vector"][:, 3].asin()  # sin(s), of the lowest frequency, 10000^(-3/4) = 0.001
    assert angles.min() >= 0
    assert angles.max() <= 0.5
    assert angles.mean().item() == pytest.approx(0.25, abs=0.01)
    spread = cond["image"].flatten(1).std(dim=1)
    assert torch.corrcoef(torch.stack([angles, spread]))[0, 1] > 0.95


def test_in_eval_mode_it_is_deterministic(images):
    conditioned = conditioner().eval()
    torch.manual_seed(0)
    first = conditioned({"image": images})
    torch.manual_seed(1)
    assert all(torch.equal(value, conditioned({"image": images})[name]) for name, value in first.items())
    few = conditioned({"image": images[:2]})
    assert torch.equal(few["image"], first["image"][:2])


def test_an_earlier_models_image_is_taken_as_the_data_are(images):
    conditioned = conditioner(sample_level=0.2)
    low = interpolate(images.float(), (4, 4), mode="bicubic", antialias=True).round().clamp(0, 255).byte()
    made, known = (conditioned.from_image(each, ImageNoise(3, range(6))) for each in (low, images))
    assert torch.allclose(made["image"], known["image"], atol=1e-6)


def test_dropout_drops_the_condition_of_some_images_in_training_alone(images):
    torch.manual_seed(0)
    conditioned = conditioner(dropout=0.25).train()
    null = conditioned.null(1)
    cond = conditioned({"image": images[:1].expand(2000, -1, -1, -1)})
    for name in ("image", "vector"):
        nothing = (cond[name] == null[name]).flatten(1).all(1)
        assert nothing.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert not (conditioned.eval()({"image": images})["vector"] == 0).all(1).any()
    assert conditioned.is_optional
    assert not conditioner().is_optional


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"resolution": 16},
            "need 1 <= resolution < 16, that of the data, in the same proportions, and channels >= 1, got resolution=16",
        ),
        ({"width": 7}, "need an even width >= 2, got width=7"),
        ({"max_level": 1.0}, "need 0 <= sample_level <= max_level < 1, got sample_level=0.1, max_level=1.0"),
        ({"sample_level": 0.6}, "got sample_level=0.6, max_level=0.5"),
        ({"dropout": 2.0}, "need 0 <= dropout <= 1"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        conditioner(**settings)


def test_pictures_of_other_sizes_are_refused(images):
    conditioned = conditioner()
    with pytest.raises(ValueError, match=r"need uint8 images of 3 x 4 x 4 or 3 x 16 x 16, got torch\.uint8 3 x 8 x 8"):
        conditioned.from_image(images[..., :8, :8], ImageNoise(0, range(6)))
    with pytest.raises(ValueError, match=r"got torch\.float32 3 x 16 x 16"):
        conditioned.from_image(images.float(), ImageNoise(0, range(6)))
    with pytest.raises(ValueError, match="need a stage that makes images of 3 x 4 x 4, got 3 x 8 x 8"):
        conditioned.must_follow(Pixels(), 3, 8, 8)
    with pytest.raises(ValueError, match="got 1 x 4 x 4"):
        conditioned.must_follow(Pixels(), 1, 4, 4)
    conditioned.must_follow(Pixels(), 3, 4, 4)
