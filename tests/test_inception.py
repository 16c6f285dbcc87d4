"""Inception features from a file: random weights stand in for the trained ones."""

import hashlib
import urllib.error
from pathlib import Path

import pytest
import torch
from measuring.fid import write_random_weights
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.errors import UserError
from alphabar.metrics import Splits
from alphabar.metrics.features import inception
from alphabar.metrics.features.inception import FILE_NAME, InceptionFeatures, resize_like_tensorflow1

NO_IMAGES = ResidentImages(torch.empty(0, 1, 8, 8, dtype=torch.uint8), None)
SPLITS = Splits(NO_IMAGES, NO_IMAGES, "data")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    write_random_weights(path)
    return path


@pytest.fixture(scope="session")
def random_inception(weights):
    return InceptionFeatures(str(weights), "cache").extractors(SPLITS)[0]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty place of torch hub, and no network."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_inception_gives_the_features_of_torch_fidelity(weights, random_inception):
    """Except for rounding, in batches of its own size."""
    images = torch.randint(0, 256, (3, 3, 32, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (expected,) = FeatureExtractorInceptionV3("reference", ["2048"], str(weights))(images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "CPU_BATCH", 2)
        found = random_inception(images)
    assert expected.std() > 0.01
    assert found.shape == (3, 2048) == (3, random_inception.num_features)
    assert ((found - expected).norm(dim=1) < 1e-6 * expected.norm(dim=1)).all()
    assert "without antialiasing" in random_inception.description


def test_inception_has_no_normalisation_of_its_own(random_inception):
    """It is part of the convolutions, whose weights lie as oneDNN and cuDNN want them."""
    modules = list(random_inception.modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 94
    assert all(each.bias is not None and each.weight.dtype == torch.float32 for each in convolutions)
    assert all(each.weight.is_contiguous(memory_format=torch.channels_last) for each in convolutions)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in modules)


@pytest.mark.parametrize("shape", [(2, 3, 32, 40), (1, 1, 299, 299), (1, 3, 300, 7)])
def test_images_are_resized_as_torch_fidelity_does_it(shape):
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    assert torch.equal(resize_like_tensorflow1(images, 299), expected)


def test_inception_repeats_grey_images(random_inception):
    grey = torch.randint(0, 256, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    torch.testing.assert_close(random_inception(grey), random_inception(grey.repeat(1, 3, 1, 1)))


def test_inception_gives_the_logits_of_torch_fidelity(weights, random_inception):
    """Those without the bias, which published Inception Scores are made with; whatever the precision around it."""
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = FeatureExtractorInceptionV3("reference", ["2048", "logits_unbiased"], str(weights))(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = random_inception.extract(images)
    torch.testing.assert_close(tuple(found), expected, rtol=1e-4, atol=1e-4)
    assert found.logits.shape == (3, 1008) == (3, random_inception.num_classes)
    assert found.logits.std() > 0.01
    assert not found.logits.requires_grad


def test_weights_of_ones_own_stand_in_the_name(weights, random_inception):
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert random_inception.name == f"inception_{sha256[:8]}"
    assert sha256[:16] in random_inception.description


def test_usual_weights_are_found_where_torch_hub_puts_them(weights, hub, monkeypatch):
    (hub / FILE_NAME).symlink_to(weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "HASH_PREFIX", sha256[:8])
    assert InceptionFeatures(None, "cache", download=True).extractors(SPLITS)[0].name == "inception"


def test_missing_inception_weights_without_a_network(hub):
    with pytest.raises(UserError, match="no network") as error:
        InceptionFeatures(None, "cache", download=True).extractors(SPLITS)[0]
    message = str(error.value)
    for part in (str(hub / FILE_NAME), "https://github.com/toshas/torch-fidelity/releases", "features=selfsup"):
        assert part in message
    assert "\n" not in message


def test_without_a_download_nobody_is_asked(hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    with pytest.raises(UserError, match=r"there is no file .*; features.download=true fetches it"):
        InceptionFeatures(None, "cache").extractors(SPLITS)


def test_download_is_checked(hub, monkeypatch):
    seen = {}
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, **options: seen.update(options, path=path))
    with pytest.raises(UserError, match="there is no file"):
        InceptionFeatures(None, "cache", download=True).extractors(SPLITS)[0]
    assert seen == {"hash_prefix": "6726825d", "path": str(hub / FILE_NAME)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nothing", "there is no file"),
        ("text", "cannot read weights from"),
        ("half", "cannot read weights from"),
        ("other network", "does not hold the weights"),
        ("no weights", "does not hold the weights"),
    ],
)
def test_wrong_inception_weights(tmp_path, weights, content, reason):
    path = tmp_path / "file.pth"
    if content == "text":
        path.write_text("not found")
    elif content == "half":
        path.write_bytes(weights.read_bytes()[:1_000_000])
    elif content != "nothing":
        torch.save(nn.Linear(2, 2).state_dict() if content == "other network" else [1, 2], path)
    with pytest.raises(UserError, match=reason) as error:
        InceptionFeatures(str(path), "cache").extractors(SPLITS)[0]
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_usual_weights(hub):
    (hub / FILE_NAME).write_text("half")
    with pytest.raises(UserError, match=r"is damaged .*delete it and run again"):
        InceptionFeatures(None, "cache", download=True).extractors(SPLITS)[0]


def test_weights_cannot_run_code(tmp_path):
    torch.save({"weight": Path("x"), "code": print}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="cannot read weights from"):
        InceptionFeatures(str(tmp_path / "file.pth"), "cache").extractors(SPLITS)[0]


def test_inception_leaves_the_global_random_state_alone(weights):
    state = torch.get_rng_state()
    InceptionFeatures(str(weights), "cache").extractors(SPLITS)[0]
    assert torch.equal(torch.get_rng_state(), state)
