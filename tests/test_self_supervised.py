"""Features for any images, without classes and without a download: the network that learns without labels, and the pixels."""

import logging
from itertools import pairwise

import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch.nn import functional as F

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.sources.digits import DigitsSource
from alphabar.evaluation.receipt import Figure
from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.evaluation.table import metric_title
from alphabar.metrics import Splits, TooFewImages
from alphabar.metrics.feature_set import Gaussian
from alphabar.metrics.features import self_supervised
from alphabar.metrics.features.automatic import AutomaticFeatures
from alphabar.metrics.features.pixels import PixelFeatures
from alphabar.metrics.features.self_supervised import SelfSupervisedFeatures, nt_xent, random_crops
from alphabar.metrics.statistics.frechet import Frechet, frechet_distance

KINDS = {"selfsup": SelfSupervisedFeatures, "pixels": PixelFeatures}


def noise(num, channels=3, resolution=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, channels, resolution, resolution), generator=generator, dtype=torch.uint8)


def splits_of(num, num_held_out=50, labels=None, **kind):
    train, held_out = ResidentImages(noise(num, **kind), labels), ResidentImages(noise(num_held_out, seed=1, **kind), None)
    return Splits(train, held_out, f"noise {num}")


@pytest.fixture
def brief(monkeypatch):
    """Training that takes a moment."""
    monkeypatch.setattr(self_supervised, "NUM_STEPS", 3)


@pytest.fixture(scope="module")
def digits():
    source = DigitsSource()
    return Splits(ResidentImages(source.train().pixels, None), ResidentImages(source.held_out().pixels, None), "digits")


def gaussian(features):
    return Gaussian(features.double().mean(0), features.double().T.cov())


def drawn_by_a_model(images, num):
    """Samples of a mixture of Gaussians that was fitted to the images."""
    model = GaussianMixture(20, reg_covar=20.0, random_state=0).fit(images.flatten(1).numpy())
    return torch.from_numpy(model.sample(num)[0]).clamp(0, 255).round().to(torch.uint8).view(num, *images.shape[1:])


def blurred(images):
    return F.avg_pool2d(images.float(), 3, 1, 1, count_include_pad=False).round().to(torch.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits):
    """The extractors of both kinds for digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_supervised, "NUM_STEPS", 40)
        folder = str(tmp_path_factory.mktemp("features"))
        return {name: kind(folder, 20000).extractors(digits)[0] for name, kind in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_worse_than_blur_than_a_model_than_held_out_images(made, digits, kind):
    extractor = made[kind]
    held_out = digits.held_out.pixels
    images = [noise(1000, 1, 8), blurred(held_out), drawn_by_a_model(digits.train.pixels, 1000), held_out]
    real = gaussian(extractor(digits.train.pixels))
    distances = [frechet_distance(real, gaussian(extractor(each))) for each in images]
    assert all(worse > 1.1 * better for worse, better in pairwise(distances)), distances
    assert extractor.name == kind


@pytest.mark.parametrize("kind", KINDS)
def test_images_as_good_as_real_ones_are_at_the_floor_of_few_held_out_images(made, digits, kind):
    """FID of 980 images itself is far below that floor, whatever they are: its bias is a fiftieth."""
    held_out = digits.held_out.pixels
    splits = Splits(digits.train, ResidentImages(held_out[:20], None), "few held out")
    reference = ReferenceStatistics(made[kind], {"fid": Frechet(allow_few=True)}, splits, torch.device("cpu"), 980, 250)
    floor, found = reference.floor()["fid_mean"], {}
    for name, images in {"real": held_out[20:], "noise": noise(980, 1, 8)}.items():
        collector = reference.collector()
        collector.add(range(980), images)
        found[name] = reference.figures(collector.compute())
    assert found["real"]["fid"] < 0.2 * floor
    assert found["real"]["fid_mean"] == pytest.approx(floor, rel=0.25)
    assert found["noise"]["fid_mean"] > 2 * floor


def test_faults_that_a_judge_has_to_see_are_seen(made, digits):
    extractor = made["selfsup"]
    real, images = gaussian(extractor(digits.train.pixels)), digits.held_out.pixels.float()
    grain = 40 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    faults = {
        "blur": (images + blurred(images)) / 2,
        "grain": images + grain,
        "brightness": images + 20,
        "contrast": (images - 128) * 0.7 + 128,
        "one image": images[:1].expand_as(images) + grain / 40,
    }
    floor = frechet_distance(real, gaussian(extractor(digits.held_out.pixels)))
    for name, faulty in faults.items():
        found = frechet_distance(real, gaussian(extractor(faulty.clamp(0, 255).round().to(torch.uint8))))
        assert found > 2 * floor, name


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_made_once_and_are_equal_afterwards(tmp_path, brief, caplog, kind):
    caplog.set_level(logging.INFO)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with torch.inference_mode():
        first = KINDS[kind](str(tmp_path), 200).extractors(splits_of(80))[0]
    again = KINDS[kind](str(tmp_path), 200).extractors(splits_of(80))[0]
    other = KINDS[kind](str(tmp_path / "other"), 200).extractors(splits_of(80))[0]
    assert first.description == again.description == other.description
    assert torch.equal(first(noise(9)), again(noise(9)))
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(message.startswith(f"{kind} features: ") for message in caplog.messages) == (5 if kind == "selfsup" else 3)
    assert "of 50 held-out images" in first.description or kind == "pixels"
    assert KINDS[kind](str(tmp_path), 200, 8).extractors(splits_of(80))[0].name == f"{kind}8"


def test_training_shows_how_far_it_is(tmp_path, brief, monkeypatch, capsys):
    monkeypatch.setattr("alphabar.progress.SECONDS", 0)
    SelfSupervisedFeatures(str(tmp_path), 200).extractors(splits_of(80))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("training")] == [
        f"training selfsup features: {share}%" for share in (33, 67, 100)
    ]
    assert any(line.startswith("reading images for features: 62%") for line in lines)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num", [2, 10])
def test_a_handful_of_images_is_enough(tmp_path, brief, kind, num):
    extractor = KINDS[kind](str(tmp_path), 200).extractors(splits_of(num, num_held_out=0))[0]
    features = extractor(noise(10))
    assert features.shape == (10, extractor.num_features) == (10, num - 1 if kind == "pixels" else 64)
    assert features.isfinite().all()
    assert extractor.max_reference == 50_000


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_is_not(tmp_path, kind):
    with pytest.raises(TooFewImages, match=f"{kind} .* 2 training images or more, got 1"):
        KINDS[kind](str(tmp_path), 200).extractors(splits_of(1))


def test_images_that_are_all_alike_have_finite_features(tmp_path, brief):
    grey = ResidentImages(torch.full((20, 3, 12, 12), 100, dtype=torch.uint8), None)
    for kind in KINDS.values():
        assert kind(str(tmp_path), 200).extractors(Splits(grey, grey, "grey"))[0](noise(5)).isfinite().all()


def test_loss_is_that_of_the_paper():
    """Equation 1 of Chen et al. 2020, written out for two images."""
    first, second = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))
    vectors = F.normalize(torch.cat([first, second]), dim=1)
    terms = []
    for index, partner in enumerate((2, 3, 0, 1)):
        scores = (vectors @ vectors[index] / 0.2).exp()
        terms.append(-(scores[partner] / (scores.sum() - scores[index])).log())
    torch.testing.assert_close(nt_xent(first, second), torch.stack(terms).mean())


def test_views_are_parts_of_their_image():
    """Each is at least 40% of the area, so that a ramp keeps its direction and at least 0.63 of its range."""
    ramp = torch.linspace(0, 100, 16).expand(50, 1, 16, 16)
    torch.manual_seed(0)
    views = random_crops(ramp)
    ranges = views.amax((1, 2, 3)) - views.amin((1, 2, 3))
    assert views.min() >= 0
    assert views.max() <= 100
    assert 55 < ranges.min() < 70 < 90 < ranges.max()
    assert (views.diff(dim=3) > -1e-3).all()
    assert views.diff(dim=2).abs().max() < 1e-3


def test_principal_components_are_those_of_an_svd(tmp_path):
    splits = splits_of(300, channels=1, resolution=8)
    features = PixelFeatures(str(tmp_path), 200).extractors(splits)[0](splits.train.pixels[:200]).double()
    values = splits.train.pixels[:200].flatten(1).double() / 127.5
    expected = torch.linalg.svdvals(values - values.mean(0))
    found = torch.linalg.svdvals(features - features.mean(0))
    torch.testing.assert_close(found / found[0], expected / expected[0], rtol=1e-3, atol=1e-3)
    assert features.var(0).mean() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("labels", "name"), [(torch.arange(80) % 2, "classifier"), (None, "selfsup"), (torch.zeros(80).long(), "selfsup")]
)
def test_auto_takes_the_classifier_where_there_are_classes(tmp_path, brief, monkeypatch, labels, name):
    monkeypatch.setattr("alphabar.metrics.features.classifier.MIN_STEPS", 3)
    monkeypatch.setattr("alphabar.metrics.features.classifier.MIN_EPOCHS", 0)
    splits = splits_of(80, num_held_out=0, labels=labels)
    assert AutomaticFeatures(str(tmp_path), 200).extractors(splits)[0].name == name


@pytest.mark.parametrize(("extractor", "title"), [("inception_1234abcd", "Inception Score"), ("classifier", "classifier score")])
def test_a_score_is_named_after_inception_only_where_the_features_are(extractor, title):
    assert metric_title(Figure("name", "inception_score", extractor, (1.0,))) == title


@pytest.mark.parametrize("kind", [*KINDS.values(), AutomaticFeatures])
def test_bad_settings(kind):
    with pytest.raises(ValueError, match=r"need max_images >= 2 and max_side >= \d, got max_images=1, max_side=32"):
        kind("cache", 1)
