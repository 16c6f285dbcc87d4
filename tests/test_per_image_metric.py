"""Metrics of numbers that are measured in each image by itself."""

import pytest
import torch

from alphabar.data import Shape
from alphabar.errors import UserError
from alphabar.evaluation.diagnostics import diagnose_images
from alphabar.evaluation.measurement import measure_images
from alphabar.evaluation.reference_statistics import reference_statistics
from alphabar.metrics.statistics import PerImageMetric
from alphabar.metrics.statistics.frechet import Frechet
from alphabar.metrics.statistics.inception_score import InceptionScore
from alphabar.runs.provenance.receipt import json_content
from alphabar.sampling.sampling_job import SampleBatch
from simple_features import CPU, gaussian_images, pixels_as_features, splits_of


class Brightness(PerImageMetric):
    """The mean of the pixels, and how far it is from that of training images; a class without any ado."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def measure(self, images):
        return self.factor * images.double().mean((1, 2, 3))

    def compute(self, generated, real):
        return {"brightness": float(generated.rows.mean()), "brightness_error": float(generated.rows.mean() - real.rows.mean())}


class Wrong(Brightness):
    def __init__(self, shape):
        self.shape = shape

    def measure(self, images):
        return torch.zeros(self.shape)


def references(folder, splits, statistics):
    return reference_statistics([pixels_as_features(4, folder)], statistics, splits, CPU, 20, 7)


def test_its_figures_are_of_its_own_numbers_beside_those_of_features(tmp_path):
    train, held_out, generated = (gaussian_images(num, 4, seed=num) for num in (50, 20, 30))
    extractor = pixels_as_features(4, tmp_path)
    statistics = {"fid": Frechet(), "brightness": Brightness(factor=2.0)}
    shared, own = reference_statistics([extractor], statistics, splits_of(train, held_out), CPU, 20, 7)
    assert (list(shared.statistics), list(own.statistics)) == (["fid"], ["brightness"])
    collector = own.collector(len(generated))
    collector.add(range(len(generated)), generated)
    expected = [2 * float(images.double().mean()) for images in (generated, train, held_out)]
    assert list(own.figures(collector.compute()).values()) == pytest.approx([expected[0], expected[0] - expected[1]], rel=1e-4)
    assert own.floor()["brightness"] == pytest.approx(expected[2], rel=1e-6)
    assert (own.extractor.name, own.statistic_names["brightness_error"]) == ("brightness", "brightness")
    assert own.extractor.cache_dir is None  # its code may change


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (2, 0)])
def test_numbers_of_another_shape_are_one_line(shape):
    with pytest.raises(
        UserError, match=r"^statistics.mine: need the numbers \[B\] or \[B, D\] of images .* from Wrong.measure, got "
    ):
        Wrong(shape).own_extractor("mine", Shape(1, 4, 4))


def test_several_numbers_of_an_image_are_features():
    extractor = Wrong((2, 3)).own_extractor("mine", Shape(1, 4, 4))
    assert extractor.num_features == 3
    assert extractor(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).shape == (2, 3)


def test_it_is_measured_alone_and_images_are_diagnosed_in_the_features(tmp_path):
    train, generated = gaussian_images(50, 4, seed=0), gaussian_images(20, 4, seed=1)
    found = references(tmp_path, splits_of(train, train[:20]), {"mine": Brightness()})
    assert [(each.extractor.name, list(each.statistics)) for each in found] == [("pixels", []), ("mine", ["mine"])]
    whole = SampleBatch(list(range(20)), generated, torch.ones(20, dtype=torch.bool))
    measured = measure_images([whole], (1, 4, 1), found)
    assert measured.figures["pixels"] == {}
    assert measured.figures["mine"]["brightness"] == pytest.approx(float(generated.double().mean()), rel=1e-6)
    assert diagnose_images(found[0], measured).memorisation.num == 20


def test_a_name_that_features_have_and_nothing_for_the_features_are_one_line(tmp_path):
    splits = splits_of(gaussian_images(50, 4, seed=0))
    with pytest.raises(UserError, match=r"^statistics.pixels: there are features of this name; call it otherwise$"):
        references(tmp_path, splits, {"fid": Frechet(), "pixels": Brightness()})
    with pytest.raises(UserError, match=r"^statistics: nothing to measure, got classes: not for pixels features$"):
        references(tmp_path, splits, {"classes": InceptionScore()})
    with pytest.raises(
        UserError, match=r"^statistics: nothing to measure, got no statistics; name some, as in statistics=\[fid\]$"
    ):
        references(tmp_path, splits, {})


def test_receipts_hold_the_settings_of_a_class_without_any_ado():
    assert json_content({"mine": Brightness(2.0)}) == {"mine": {"name": "Brightness", "factor": 2.0}}
    with pytest.raises(TypeError):
        json_content({"mine": 1j})


class InNumpy(Brightness):
    """A metric as somebody writes it who thinks in arrays, and whose figure is no plain number."""

    def measure(self, images):
        return images.numpy().mean((1, 2, 3))

    def compute(self, generated, real):
        return {"brightness": generated.rows.mean()}


class Bad(Brightness):
    def compute(self, generated, real):
        return generated.rows.mean(1) if self.factor == 1 else {"brightness": "high"}


def figures_of(folder, metric):
    generated = gaussian_images(20, 4, seed=1)
    statistics = {"fid": Frechet(), "mine": metric}
    own = references(folder, splits_of(gaussian_images(50, 4, seed=0)), statistics)[1]
    collector = own.collector()
    collector.add(range(20), generated)
    return own.figures(collector.compute()), float(generated.double().mean())


def test_numbers_may_be_arrays_and_figures_tensors(tmp_path):
    found, expected = figures_of(tmp_path, InNumpy())
    assert type(found["brightness"]) is float
    assert found["brightness"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("factor", [1, 2])
def test_figures_that_are_none_are_one_line(tmp_path, factor):
    with pytest.raises(UserError, match=r"^statistics\.mine: need figures as numbers by name, got "):
        figures_of(tmp_path, Bad(factor))
