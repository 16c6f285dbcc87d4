import pytest
import torch

from alphabar.metrics.feature_set import Sums
from alphabar.metrics.health import ImageStatistics, diversity, image_warnings


def pictures(num, seed, channels=3, size=8, brightness=20.0):
    """Colourful noise: an image has a brightness of its own, in all its channels."""
    stream = torch.Generator().manual_seed(seed)
    own = brightness * torch.randn(num, 1, 1, 1, generator=stream)
    pixels = 120 + own + 30 * torch.randn(num, channels, size, size, generator=stream)
    return pixels.round().clamp(0, 255).to(torch.uint8)


def shifted(images, channel, levels):
    images = images.clone().int()
    images[:, channel] += levels
    return images.clamp(0, 255).to(torch.uint8)


def of(images):
    return ImageStatistics.of(images)


def gaussian_of(features):
    features = features.double()
    return Sums(torch.tensor(float(len(features))), features.sum(0), features.T @ features).gaussian()


def test_statistics_are_those_of_the_pixels():
    images = pictures(50, seed=0)
    stats, pixels = of(images), images.double()
    by_image = pixels.mean((2, 3))
    torch.testing.assert_close(stats.mean, pixels.mean((0, 2, 3)))
    torch.testing.assert_close(stats.std, pixels.std((0, 2, 3), correction=0))
    torch.testing.assert_close(stats.image_std, by_image.std(0))
    torch.testing.assert_close(stats.standard_error, by_image.std(0) / 50**0.5)
    assert stats.num_images == 50


def test_known_answers():
    images = torch.tensor([[0, 0, 255, 100], [254, 1, 255, 255]], dtype=torch.uint8).view(2, 1, 2, 2)
    stats = of(images)
    assert stats.saturated == 5 / 8
    assert stats.mean.item() == 1120 / 8
    assert stats.image_std.item() == pytest.approx(abs(355 - 765) / 4 / 2**0.5)
    assert stats.to_dict()["num_images"] == 2
    assert stats.to_dict()["mean"] == [140.0]


def test_parts_add_up_to_the_whole_to_the_bit_but_for_one():
    images = pictures(64, seed=1)
    whole, parts = of(images), ImageStatistics.empty(3)
    for part in (images[:10], images[10:10], images[10:]):
        parts = parts + of(part)
    assert torch.equal(parts.sums[[0, 1, 2, 3, 5]], whole.sums[[0, 1, 2, 3, 5]])
    torch.testing.assert_close(parts.sums, whole.sums, rtol=1e-15, atol=0)
    assert torch.equal(whole.of_all_processes().sums, whole.sums)


def test_large_images_do_not_overflow():
    stats = of(torch.full((2, 1, 1024, 1024), 255, dtype=torch.uint8))
    assert (stats.mean.item(), stats.std.item(), stats.image_std.item(), stats.saturated) == (255.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_equal_distributions_raise_no_complaint(seed):
    assert image_warnings(of(pictures(200, seed)), of(pictures(1000, 100 + seed)), diversity=0.95) == []


def test_a_planted_colour_shift_is_named_with_its_numbers():
    real, generated = pictures(1000, 0), pictures(1000, 1)
    (line,) = image_warnings(of(shifted(generated, 2, -9)), of(real))
    assert line.startswith("colour cast: blue is ")
    assert "grey levels darker than in real images" in line
    mean, other = of(shifted(generated, 2, -9)).mean[2], of(real).mean[2]
    assert f"{mean:.1f} against {other:.1f} with a standard error of" in line
    (line,) = image_warnings(of(shifted(pictures(1000, 1, channels=1), 0, 9)), of(pictures(1000, 0, channels=1)))
    assert line.startswith("colour cast: grey is ")


def test_a_shift_must_be_visible_and_more_than_chance():
    even, real = pictures(4000, 1, brightness=0.0), pictures(4000, 0, brightness=0.0)
    assert abs(of(shifted(even, 0, 2)).mean[0] - of(real).mean[0]) > 20 * of(real).standard_error[0]
    assert image_warnings(of(shifted(even, 0, 2)), of(real)) == []  # sure, but nobody sees it
    assert len(image_warnings(of(shifted(even, 0, 4)), of(real))) == 1
    few = shifted(pictures(40, 1), 0, 9)  # 9 grey levels, with a standard error of 3
    assert image_warnings(of(few), of(pictures(4000, 0))) == []


def test_too_few_images_to_tell():
    real = of(shifted(pictures(500, 0), 1, 80))
    assert image_warnings(of(pictures(31, 0)), real, diversity=0.1) == []
    assert len(image_warnings(of(pictures(32, 0)), real, diversity=0.1)) == 2
    assert image_warnings(ImageStatistics.empty(3), real, diversity=float("nan")) == []
    assert image_warnings(real, of(pictures(1, 0))) == []


@pytest.mark.parametrize(("factor", "flagged"), [(0.7, True), (0.9, False), (1.0, False), (1.15, False), (1.4, True)])
def test_contrast(factor, flagged):
    real = pictures(500, 0, channels=1)
    other = (120 + factor * (real.float() - 120)).round().clamp(0, 255).to(torch.uint8)
    lines = image_warnings(of(other), of(real))
    assert [line.startswith("contrast: the standard deviation of grey is ") for line in lines] == [True] * flagged


def test_saturation():
    real = pictures(500, 0, channels=1)
    burnt = real.clone()
    burnt[:, :, :1, :4] = 255  # 1/16 of the pixels
    burnt[:, :, 1:2, :4] = 0
    assert not [line for line in image_warnings(of(real), of(real)) if "saturation" in line]
    (line,) = [line for line in image_warnings(of(burnt), of(real)) if "saturation" in line]
    assert line == "saturation: 12.5% of all values are 0 or 255, of real images 0.1%"
    assert not [line for line in image_warnings(of(real), of(burnt)) if "saturation" in line]


def test_duplicates_are_flagged():
    stream = torch.Generator().manual_seed(0)
    real, good = (torch.randn(500, 16, generator=stream) for _ in range(2))
    assert diversity(gaussian_of(good), gaussian_of(real)) == pytest.approx(1.0, abs=0.1)
    assert diversity(gaussian_of(0.5 * good), gaussian_of(real)) == pytest.approx(0.25, abs=0.03)
    collapsed = diversity(gaussian_of(good[:1].repeat(500, 1) + 0.1 * good), gaussian_of(real))
    assert collapsed == pytest.approx(0.01, abs=0.002)
    images = of(pictures(100, 0))
    assert image_warnings(images, images, diversity(gaussian_of(good), gaussian_of(real))) == []
    (line,) = image_warnings(images, images, collapsed)
    assert line == "diversity: the features of the images vary 0.01 times as much as those of real images"


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)], ids=["float", "no channel"])
def test_other_than_bytes_are_refused(images):
    with pytest.raises(ValueError, match="need uint8 images"):
        of(images)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="need as many channels in both, got 3 and 1"):
        image_warnings(of(pictures(3, 0)), of(pictures(3, 0, channels=1)))
