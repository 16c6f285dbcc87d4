"""KID, Inception Score, precision and recall against torch-fidelity; density, coverage and CMMD against direct formulas."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import ClassSums, FeatureSet, Sums
from alphabar.metrics.statistics import cmmd, prdc
from alphabar.metrics.statistics.cmmd import CMMD
from alphabar.metrics.statistics.inception_score import InceptionScore, class_sums
from alphabar.metrics.statistics.kid import KID
from alphabar.metrics.statistics.prdc import PRDC, density_and_coverage


def rows(num, num_features=32, seed=0, shift=0.0):
    return torch.randn(num, num_features, generator=torch.Generator().manual_seed(seed)) + shift


def feature_set(features, logits=None):
    """What is kept of all of these."""
    wide = features.double()[None]
    parts = Sums(torch.tensor([len(features)]).double(), wide.sum(1), wide.mT @ wide)
    classes = None if logits is None else class_sums(logits, torch.arange(len(logits)), len(logits))
    return FeatureSet(parts, features, classes)


def inception_score(logits):
    return InceptionScore().compute(feature_set(torch.zeros(len(logits), 2), logits), feature_set(torch.zeros(1, 2)))


def extractor(name="pixels", head=None):
    return Extractor(nn.Flatten(), 4, name, name, (1,), 100, "/nowhere", head)


def test_kid_equals_that_of_torch_fidelity():
    generated, real = rows(60, shift=0.3), rows(70, seed=1)
    found = KID(subsets=7, subset_size=20).compute(feature_set(generated), feature_set(real))
    expected = kid_features_to_metric(generated, real, kid_subsets=7, kid_subset_size=20, verbose=False)
    assert found == {
        "kid": pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4),
        "kid_std": pytest.approx(expected["kernel_inception_distance_std"], rel=1e-4),
    }
    assert found["kid"] > 0.1


def test_kid_of_equal_distributions_is_about_zero():
    found = KID(subsets=20, subset_size=200).compute(feature_set(rows(1000)), feature_set(rows(1000, seed=1)))
    assert abs(found["kid"]) < 0.01 < KID(20, 200).compute(feature_set(rows(1000, shift=0.3)), feature_set(rows(1000)))["kid"]


@pytest.mark.parametrize("num", [11, 37, 99, 240])
def test_inception_score_equals_that_of_torch_fidelity(num):
    logits = 3 * rows(num, 20)
    expected = isc_features_to_metric(logits, shuffle=False)
    assert inception_score(logits) == {
        "inception_score": pytest.approx(expected["inception_score_mean"], rel=1e-9),
        "inception_score_std": pytest.approx(expected["inception_score_std"], rel=1e-9),
    }
    assert expected["inception_score_mean"] > 1


def test_class_sums_add_up_over_batches_in_any_order():
    logits = 3 * rows(53, 20)
    whole = class_sums(logits, torch.arange(53), 53)
    total = ClassSums(*(torch.zeros_like(value) for value in whole))
    for places in torch.randperm(53, generator=torch.Generator().manual_seed(0)).split(9):
        total = ClassSums(*map(torch.add, total, class_sums(logits[places], places, 53)))
    for found, expected in zip(total, whole, strict=True):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected)
    assert whole.num.tolist() == [5, 5, 5, 6, 5, 5, 6, 5, 5, 6]


def test_inception_scores_known_beforehand():
    """Uniform probabilities: 1; certain and balanced ones: as many as there are classes, also where probabilities underflow."""
    assert inception_score(torch.zeros(50, 7)) == {
        "inception_score": pytest.approx(1, abs=1e-12),
        "inception_score_std": pytest.approx(0, abs=1e-12),
    }
    for size in (60.0, 1e4):
        certain = size * torch.eye(5).repeat(20, 1)
        assert inception_score(certain) == {
            "inception_score": pytest.approx(5, rel=1e-9),
            "inception_score_std": pytest.approx(0, abs=1e-9),
        }
    one_class_each = 60 * torch.eye(10).repeat_interleave(10, 0)
    assert inception_score(one_class_each)["inception_score"] == pytest.approx(1)


def test_inception_score_needs_classes_and_leaves_out_parts_without_images():
    assert inception_score(torch.zeros(9, 3))["inception_score"] == pytest.approx(1)
    with pytest.raises(ValueError, match="need class probabilities, got none"):
        InceptionScore().compute(feature_set(rows(20)), feature_set(rows(20)))


@pytest.mark.parametrize("chunk", [1000, 16])
def test_precision_and_recall_equal_those_of_torch_fidelity(monkeypatch, chunk):
    monkeypatch.setattr(prdc, "CHUNK", chunk)
    generated, real = 0.5 * rows(90, 8), rows(70, 8, seed=1)
    found = PRDC().compute(feature_set(generated), feature_set(real))
    expected = prc_features_to_metric(generated, real, verbose=False)
    assert {name: found[name] for name in ("precision", "recall")} == {name: expected[name] for name in ("precision", "recall")}
    assert 1 >= found["precision"] > 0.9 > found["recall"] > 0.1


def naive_density_and_coverage(generated, real, k):
    """Naeem et al. 2020, eq. 2 and 3, image by image."""
    generated, real = generated.double().numpy(), real.double().numpy()
    num_inside, num_covered = 0, 0
    for center in real:
        radius = np.sort(np.linalg.norm(real - center, axis=1))[k]
        inside = (np.linalg.norm(generated - center, axis=1) < radius).sum()
        num_inside += inside
        num_covered += inside > 0
    return num_inside / (k * len(generated)), num_covered / len(real)


@pytest.mark.parametrize("chunk", [1000, 16])
def test_density_and_coverage_follow_their_definition(monkeypatch, chunk):
    monkeypatch.setattr(prdc, "CHUNK", chunk)
    generated, real = rows(90, 8, shift=0.5), rows(70, 8, seed=1)
    found = density_and_coverage(generated, real, 5)
    assert found == pytest.approx(naive_density_and_coverage(generated, real, 5))
    assert 1 > found[1] > 0.5
    assert 2 > found[0] > 0.3


def test_density_and_coverage_known_beforehand():
    real = rows(100, 8)
    same, far = (PRDC().compute(feature_set(found), feature_set(real)) for found in (real.clone(), real + 100))
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert same["density"] == pytest.approx(1, abs=0.21)  # an image at a ball's very edge counts or not, by the last digit
    assert set(far.values()) == {0}
    one_mode = PRDC().compute(feature_set(real[:1].repeat(50, 1) + 1e-3 * rows(50, 8, seed=1)), feature_set(real))
    assert one_mode["precision"] == 1
    assert one_mode["coverage"] < 0.2
    assert one_mode["recall"] < 0.05


def naive_cmmd(generated, real):
    """Jayasumana et al. 2024, pair by pair."""
    x, y = (nn.functional.normalize(features.double(), dim=1) for features in (generated, real))

    def mean(first, second):
        return sum(math.exp(-float((a - b).square().sum()) / 200) for a in first for b in second) / len(first) / len(second)

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@pytest.mark.parametrize("chunk", [1000, 7])
def test_cmmd_follows_its_definition(monkeypatch, chunk):
    monkeypatch.setattr(cmmd, "CHUNK", chunk)
    generated, real = rows(30, shift=0.5), rows(40, seed=1)
    found = CMMD().compute(feature_set(generated), feature_set(real))
    assert found == {"cmmd": pytest.approx(naive_cmmd(generated, real), rel=1e-8)}
    assert found["cmmd"] > 1


def test_cmmd_known_beforehand():
    """Nothing between equal sets; between two points at right angles 2 (1 - exp(-2 / 200))."""
    features = rows(50)
    assert CMMD().compute(feature_set(features), feature_set(features.flip(0)))["cmmd"] == pytest.approx(0, abs=1e-9)
    east, north = (torch.eye(2)[i].repeat(8, 1) for i in range(2))
    found = CMMD().compute(feature_set(3 * east), feature_set(north))["cmmd"]
    assert found == pytest.approx(2000 * (1 - math.exp(-0.01)), rel=1e-9)


@pytest.mark.parametrize("statistic", [KID(5, 20, 50), PRDC(50), CMMD(50)], ids=["kid", "prdc", "cmmd"])
def test_only_the_first_images_count_and_no_random_state_is_touched(statistic):
    generated, real = rows(80, shift=0.3), rows(70, seed=1)
    expected = statistic.compute(feature_set(generated[:50]), feature_set(real[:50]))
    torch.manual_seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert statistic.compute(feature_set(generated), feature_set(real)) == expected
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_kid_of_fewer_images_than_a_subset_is_of_all_of_them():
    generated, real = feature_set(rows(15, shift=0.3)), feature_set(rows(18, seed=1))
    assert KID(subsets=7).compute(generated, real) == KID(subsets=7, subset_size=15).compute(generated, real)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("statistic", [KID(5, 10), PRDC(), CMMD(), InceptionScore()], ids=["kid", "prdc", "cmmd", "is"])
def test_one_feature_that_is_not_finite_makes_every_figure_nan(statistic, value):
    features = rows(40)
    broken = features.clone()
    broken[39, 1] = value
    assert all(math.isnan(figure) for figure in statistic.compute(feature_set(broken, broken), feature_set(features)).values())
    if not isinstance(statistic, InceptionScore):
        assert all(math.isnan(figure) for figure in statistic.compute(feature_set(features), feature_set(broken)).values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KID(subsets=0), "need subsets >= 1, got subsets=0"),
        (lambda: KID(subset_size=1), "need 2 <= subset_size <= max_images, got subset_size=1, max_images=5000"),
        (lambda: KID(max_images=500), "need 2 <= subset_size <= max_images, got subset_size=1000, max_images=500"),
        (lambda: PRDC(max_images=5), "need max_images >= 6, got max_images=5"),
        (lambda: CMMD(max_images=1), "need max_images >= 2, got max_images=1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_what_applies_to_what():
    plain, with_classes, clip = extractor(), extractor(head=nn.Linear(4, 3)), extractor("clip_12345678")
    assert [statistic.applies(plain) for statistic in (KID(), InceptionScore(), PRDC(), CMMD())] == [True, False, True, False]
    assert InceptionScore().applies(with_classes)
    assert CMMD().applies(clip)
    assert [statistic.min_images(2048) for statistic in (KID(3, 30), InceptionScore(), PRDC(), CMMD())] == [2, 10, 6, 2]
