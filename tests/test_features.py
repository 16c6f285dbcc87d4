"""The choices of the `features` group, and the classifier that trains itself."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.sources.digits import DigitsSource
from alphabar.errors import DataNotFound, UserError
from alphabar.metrics import Features, Splits, TooFewImages, build_extractors
from alphabar.metrics.feature_set import Gaussian
from alphabar.metrics.features import classifier
from alphabar.metrics.features.automatic import AutomaticFeatures
from alphabar.metrics.features.classifier import ClassifierFeatures
from alphabar.metrics.features.clip import CLIPFeatures
from alphabar.metrics.features.dinov2 import DINOv2Features
from alphabar.metrics.features.inception import InceptionFeatures
from alphabar.metrics.features.pixels import PixelFeatures
from alphabar.metrics.features.self_supervised import SelfSupervisedFeatures
from alphabar.metrics.statistics.frechet import frechet_distance

CONF = Path(__file__).parents[1] / "conf"


def halves(num, channels=1, resolution=8, seed=0):
    """Noise that is brighter on the left (class 3) or on the right (class 7)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 150, (num, channels, resolution, resolution), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 2, (num,), generator=generator)
    middle = resolution // 2
    images[labels == 0, :, :, :middle] += 60
    images[labels == 1, :, :, middle:] += 60
    return ResidentImages(images, 3 + 4 * labels)


def splits_of(fingerprint="halves", **kinds):
    return Splits(halves(200, **kinds), halves(100, seed=1, **kinds), fingerprint)


@pytest.fixture
def brief(monkeypatch):
    """Training that takes a moment."""
    monkeypatch.setattr(classifier, "MIN_STEPS", 20)
    monkeypatch.setattr(classifier, "MIN_EPOCHS", 0)


@pytest.fixture
def trainings(monkeypatch, brief):
    """The trainings that have taken place."""
    done = []
    train = classifier.train_classifier
    monkeypatch.setattr(classifier, "train_classifier", lambda *arguments: done.append(arguments) or train(*arguments))
    return done


def accuracy(extractor, train, test):
    """Of a linear fit to the features."""
    ones = [torch.cat([extractor(split.pixels), torch.ones(len(split), 1)], 1) for split in (train, test)]
    weights = torch.linalg.lstsq(ones[0], train.labels.float() - 5, driver="gelsd").solution
    return ((ones[1] @ weights > 0) == (test.labels > 5)).float().mean()


@pytest.mark.parametrize(
    "kind",
    [{}, {"channels": 3}, {"resolution": 20}, {"channels": 3, "resolution": 72}],
    ids=["grey", "rgb", "middle", "large"],
)
def test_classifier_separates_two_classes(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(classifier, "MIN_STEPS", 60)
    splits = splits_of(**kind)
    extractor = ClassifierFeatures(str(tmp_path), 200).extractors(splits)[0]
    features = extractor(splits.held_out.pixels)
    assert features.shape == (100, extractor.num_features) == (100, 64)
    assert features.dtype == torch.float32
    assert accuracy(extractor, *splits[:2]) > 0.95


def test_both_halves_of_the_features_have_a_mean_variance_of_one(tmp_path, brief):
    splits = splits_of()
    features = ClassifierFeatures(str(tmp_path), 200).extractors(splits)[0](splits.train.pixels)
    for half in features.split(32, 1):
        assert half.var(0).mean() == pytest.approx(1, rel=1e-4)


def test_logits_are_those_that_were_trained(tmp_path, monkeypatch):
    """From features that were scaled afterwards, also when they come from the cache."""
    trained = []
    fit = classifier.minimise_cross_entropy

    def keep(model, *arguments):
        fit(model, *arguments)
        with torch.no_grad():
            trained.append(model(splits.held_out.pixels))

    monkeypatch.setattr(classifier, "MIN_STEPS", 60)
    monkeypatch.setattr(classifier, "minimise_cross_entropy", keep)
    splits = splits_of()
    for _ in range(2):
        extractor = ClassifierFeatures(str(tmp_path), 200).extractors(splits)[0]
        features, logits = extractor.extract(splits.held_out.pixels)
        torch.testing.assert_close(logits, trained[0])
        assert torch.equal(features, extractor(splits.held_out.pixels))
        assert extractor.num_classes == logits.shape[1] == 2
        assert ((logits.argmax(1) == 1) == (splits.held_out.labels == 7)).float().mean() > 0.95
    assert len(trained) == 1


def test_classifier_is_trained_once(tmp_path, trainings, caplog):
    caplog.set_level("INFO")
    images = halves(9).pixels
    first, second = (ClassifierFeatures(str(tmp_path), 200).extractors(splits_of())[0] for _ in range(2))
    assert len(trainings) == 1
    assert first.description == second.description
    assert torch.equal(first(images), second(images))
    assert [message for message in caplog.messages if "% on 100 held-out images" in message] == caplog.messages[1:]
    assert len(caplog.messages) == 3


@pytest.mark.parametrize(
    ("max_images", "splits"),
    [(100, splits_of()), (200, splits_of("other")), (200, splits_of(resolution=12))],
    ids=["setting", "data", "resolution"],
)
def test_classifier_is_trained_again_after_a_change(tmp_path, trainings, max_images, splits):
    ClassifierFeatures(str(tmp_path), 200).extractors(splits_of())[0]
    ClassifierFeatures(str(tmp_path), max_images).extractors(splits)[0]
    assert len(trainings) == 2


def truncate(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[5000] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_byte])
def test_damaged_cache_is_made_again(tmp_path, trainings, caplog, damage):
    first = ClassifierFeatures(str(tmp_path), 200).extractors(splits_of())[0]
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damage(path)
    second = ClassifierFeatures(str(tmp_path), 200).extractors(splits_of())[0]
    assert len(trainings) == 2
    assert len(caplog.messages) == 1
    assert str(path) in caplog.messages[0]
    assert first.description == second.description
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_classifier_without_a_folder_to_write_into_goes_on(tmp_path, brief, caplog):
    (tmp_path / "file").touch()
    ClassifierFeatures(str(tmp_path / "file" / "cache"), 200).extractors(splits_of())[0]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_classifier_does_not_depend_on_its_surroundings_nor_change_them(tmp_path, brief, surroundings):
    expected = ClassifierFeatures(str(tmp_path / "a"), 200).extractors(splits_of())[0].description
    torch.manual_seed(5)
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    with surroundings():
        extractor = ClassifierFeatures(str(tmp_path / "b"), 200).extractors(splits_of())[0]
    assert extractor.description == expected
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() == grad


def test_classifier_does_not_depend_on_the_default_precision(tmp_path, brief):
    expected = ClassifierFeatures(str(tmp_path), 200).extractors(splits_of())[0]
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = ClassifierFeatures(str(tmp_path), 200).extractors(splits_of())[0].extract(halves(9).pixels)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected.extract(halves(9).pixels)))


@pytest.mark.parametrize(
    ("labels", "lack"),
    [(None, "the training images have no classes"), (torch.zeros(9).long(), "the training images are all of one class")],
    ids=["no_labels", "one_class"],
)
def test_classifier_needs_classes(tmp_path, labels, lack):
    images = ResidentImages(halves(9).pixels, labels)
    with pytest.raises(UserError, match=f"^{lack}.*features=selfsup does without") as error:
        ClassifierFeatures(str(tmp_path), 200).extractors(Splits(images, images, "data"))[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(DataNotFound("no images", ": look elsewhere"), UserError), (TooFewImages("no images: look elsewhere"), TooFewImages)],
)
def test_what_features_lack_is_said_with_the_name_of_their_group(error, kind):
    class Lacking(Features):
        def extractors(self, splits):
            raise error

    with pytest.raises(UserError, match=r"^features: no images: look elsewhere$") as caught:
        build_extractors(Lacking(), splits_of())
    assert type(caught.value) is kind


def test_classifier_refuses_fewer_than_two_images():
    with pytest.raises(ValueError, match="need max_images >= 2 and max_side >= 8, got max_images=1"):
        ClassifierFeatures("cache", 1)


def test_classifier_works_without_held_out_images(tmp_path, brief):
    train = halves(50)
    extractor = ClassifierFeatures(str(tmp_path), 200).extractors(Splits(train, halves(0), "data"))[0]
    assert "no held-out images" in extractor.description


def gaussian(features):
    """Mean and covariance."""
    return Gaussian(features.double().mean(0), features.double().T.cov())


def test_figures_for_digits(tmp_path):
    """The default experiment's measure sees whole noise, a missing class, blur and a change of brightness."""
    source = DigitsSource()
    splits = Splits(source.train(), source.held_out(), source.fingerprint())
    extractor = ClassifierFeatures(str(tmp_path), 20000).extractors(splits)[0]
    assert float(extractor.description.split(", ")[1].split("%")[0]) > 95
    real = gaussian(extractor(splits.train.pixels))
    images = splits.held_out.pixels
    floor = frechet_distance(real, gaussian(extractor(images[:1000])))
    blurred = (images + nn.functional.avg_pool2d(images.float(), 3, 1, 1)) / 2
    faults = {
        "noise": (torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8), 20),
        "missing class": (images[splits.held_out.labels != 3], 2),
        "blur": (blurred.round().to(torch.uint8), 2),
        "dark": ((images * 0.85).to(torch.uint8), 2),
    }
    for name, (faulty, factor) in faults.items():
        assert frechet_distance(real, gaussian(extractor(faulty))) > factor * floor, name


@pytest.mark.parametrize(
    ("choice", "target"),
    [
        ("auto", AutomaticFeatures),
        ("classifier", ClassifierFeatures),
        ("selfsup", SelfSupervisedFeatures),
        ("pixels", PixelFeatures),
        ("inception", InceptionFeatures),
        ("dinov2", DINOv2Features),
        ("clip", CLIPFeatures),
        ("none", None),
    ],
)
def test_choices_of_the_group(choice, target):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        features = compose(overrides=["+paths=default", f"+features={choice}"]).features
    if target is None:
        assert features is None
    else:
        arguments = dict(features)
        assert arguments.pop("_target_") == f"{target.__module__}.{target.__qualname__}"
        assert isinstance(target(**arguments), target)
