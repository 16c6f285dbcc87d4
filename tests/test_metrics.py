"""The Frechet distance, and the sums that it is made of."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from alphabar.metrics.collector import Collector
from alphabar.metrics.extractor import TF32_SETTINGS
from alphabar.metrics.feature_set import Gaussian
from alphabar.metrics.statistics.frechet import Frechet, frechet_distance, mean_over_sets
from simple_features import CPU, Witness, collected, fid, gaussian_images, pixels_as_features


def covariance(num_features, rank, seed):
    root = torch.randn(num_features, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / rank


def test_distance_of_two_known_gaussians():
    """In one basis: d^2 = |m1 - m2|^2 + sum (s1 - s2)^2, also where some s are zero."""
    basis, _ = torch.linalg.qr(covariance(64, 64, seed=0))
    std1, std2 = torch.linspace(0.1, 3, 64).double(), torch.linspace(2, 0, 64).double()
    std1[:20] = 0
    shift = torch.linspace(-1, 1, 64).double()
    expected = shift.square().sum() + (std1 - std2).square().sum()
    one = Gaussian(torch.zeros(64).double(), basis @ torch.diag(std1**2) @ basis.T)
    other = Gaussian(shift, basis @ torch.diag(std2**2) @ basis.T)
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("rank", "error"), [(300, 1e-10), (20, 1e-6)], ids=["full_rank", "fewer_images_than_features"])
def test_distance_equals_that_of_others(rank, error):
    """Of more features than are multiplied at a time; if a covariance is singular, rounding alone decides on more digits."""
    cov1, cov2 = covariance(300, rank, seed=1), 2 * covariance(300, 600, seed=2)
    mean1, mean2 = torch.zeros(300).double(), torch.linspace(0, 1, 300).double()
    found = frechet_distance(Gaussian(mean1, cov1), Gaussian(mean2, cov2))
    first, second = ({"mu": mean.numpy(), "sigma": cov.numpy()} for mean, cov in ((mean1, cov1), (mean2, cov2)))
    by_torch_fidelity = fid_statistics_to_metric(first, second, verbose=False)["frechet_inception_distance"]
    assert found == pytest.approx(by_torch_fidelity, rel=error)
    assert found == pytest.approx(float(_compute_fid(mean1, cov1, mean2, cov2)), rel=error)
    traces = np.trace(cov1) + np.trace(cov2) - 2 * np.trace(sqrtm(cov1.numpy() @ cov2.numpy())).real
    assert found == pytest.approx(float((mean1 - mean2).square().sum() + traces), rel=error)


@pytest.mark.parametrize("rank", [64, 20], ids=["full_rank", "fewer_images_than_features"])
def test_root_of_a_covariance_is_lower_triangular(rank):
    """And of a covariance that rounding leaves with negative eigenvalues, too."""
    covariances = covariance(64, rank, seed=1), covariance(64, rank, seed=1) - 1e-15 * torch.eye(64)
    for each in covariances:
        root = Gaussian(torch.zeros(64), each).root
        assert torch.equal(root, root.tril())
        torch.testing.assert_close(root @ root.T, each, rtol=0, atol=1e-12)


def test_real_images_are_decomposed_once(monkeypatch):
    """For all sets that are compared with them."""
    decompositions = []
    cholesky = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda matrix: (decompositions.append(len(matrix)), cholesky(matrix))[1])
    extractor = pixels_as_features(4)
    real, *generated = (collected(gaussian_images(100, 4, seed), extractor, num_rows=100) for seed in range(3))
    assert len({Frechet().compute(each, real)["fid"] for each in generated}) == 2
    assert mean_over_sets(generated[0], real, 20) is not None
    assert decompositions == [4]


def test_whole_path_equals_that_of_torchmetrics():
    real, generated = gaussian_images(300, 16, seed=0), gaussian_images(200, 16, seed=1, mean=103.0, std=14.0)
    metric = FrechetInceptionDistance(feature=pixels_as_features(16), normalize=False)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    assert fid(real, generated) == pytest.approx(metric.compute().item(), rel=1e-5)


def test_shift_moves_the_distance_by_its_square():
    images = gaussian_images(200, 16, seed=0)
    assert fid(images, images) == pytest.approx(0, abs=1e-4)
    assert fid(images, images + 3) == pytest.approx(16 * 3**2, abs=1e-4)


def test_distance_of_equal_distributions_falls_with_n():
    """Which is why n stands in the name."""
    real = gaussian_images(4000, 64, seed=0)
    found = [fid(real, gaussian_images(num, 64, seed=1)) for num in (32, 128, 512, 2048)]
    assert all(more < fewer / 2.5 for fewer, more in pairwise(found)), found


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_images_reach_the_network_as_they_are(channels):
    witness = Witness()
    images = torch.full((5, channels, 2, 2), 200, dtype=torch.uint8)
    images[0] = 255
    found = collected(images, pixels_as_features(4 * channels, network=witness, channels=(1, 3)))
    assert witness.seen.dtype == torch.uint8
    assert torch.equal(witness.seen, images)
    assert found.sums.first[0] == 4 * 200 + 255


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (torch.zeros(2, 1, 2, 2), "torch.float32 [2, 1, 2, 2]"),
        (torch.zeros(2, 4, 2, 2, dtype=torch.uint8), "torch.uint8 [2, 4, 2, 2]"),
        (torch.zeros(1, 2, 2, dtype=torch.uint8), "torch.uint8 [1, 2, 2]"),
    ],
    ids=["float", "four_channels", "no_batch"],
)
def test_other_images_are_refused(images, got):
    with pytest.raises(
        ValueError, match=r"^need (torch.uint8 images \[B, C, H, W\] with C = 1|images as torch.uint8 or torch.uint16)"
    ) as error:
        collected(images, pixels_as_features(4))
    assert str(error.value).endswith(got)


class NaNForWhite(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1).float()
        return features.masked_fill(features == 255, math.nan)


def test_features_that_are_not_finite_give_nan():
    real, generated = gaussian_images(20, 4, seed=0), gaussian_images(20, 4, seed=1)
    generated[3] = 255
    assert math.isnan(fid(real, generated, pixels_as_features(4, network=NaNForWhite())))


def test_sums_of_parts_do_not_depend_on_batches():
    images, extractor = gaussian_images(57, 4, seed=0), pixels_as_features(4)
    whole = collected(images, extractor, num_rows=30)
    collector = Collector(extractor, CPU, 57, num_rows=30)
    for indices in torch.randperm(57, generator=torch.Generator().manual_seed(0)).split(8):
        collector.add(indices, images[indices])
    for one, other in zip(whole.parts, collector.compute().parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert torch.equal(whole.rows, collector.compute().rows)
    assert torch.equal(whole.rows, images[:30].flatten(1).float())
    assert whole.parts.num.tolist() == [5, 6, 6, 5, 6, 6, 5, 6, 6, 6]  # as 57 k / 10 is rounded down


def test_images_that_were_left_out_leave_no_rows():
    images = gaussian_images(20, 4, seed=0)
    kept = torch.arange(20) != 3
    collector = Collector(pixels_as_features(4), CPU, 20, num_rows=10)
    collector.add(torch.arange(20)[kept], images[kept])
    found = collector.compute()
    assert (found.num, len(found.rows)) == (19, 9)
    assert torch.equal(found.rows, images[kept][:9].flatten(1).float())


def test_limit_of_many_images_is_nearer_to_the_truth():
    """Two known normal distributions, whose true distance is 16 * 3^2 + 16 * (10 - 13)^2, of which rounding takes next to nothing."""
    truth = 16 * 3**2 + 16 * 3**2
    real, extractor = gaussian_images(20000, 16, seed=0), pixels_as_features(16)
    reference = collected(real, extractor)
    errors = []
    for seed in range(1, 6):
        found = Frechet().compute(collected(gaussian_images(400, 16, seed=seed, mean=103.0, std=13.0), extractor), reference)
        errors.append((found["fid"] - truth, found["fid_infinity"] - truth))
    bias, limit = torch.tensor(errors).mean(0).tolist()
    assert bias > 5
    assert abs(limit) < 0.5 * bias


def test_no_limit_of_too_few_images():
    extractor = pixels_as_features(64)
    images = collected(gaussian_images(200, 64, seed=0), extractor)
    assert Frechet().compute(images, images).keys() == {"fid"}


@pytest.fixture
def bf16_by_default():
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


def test_precision_of_the_trainer_does_not_matter(bf16_by_default):
    real, generated = gaussian_images(200, 16, seed=0), gaussian_images(200, 16, seed=1)
    extractor = pixels_as_features(8, network=nn.Sequential(Witness(), nn.Linear(16, 8, dtype=torch.float32)))
    with torch.autocast("cpu", torch.bfloat16):
        inside = fid(real, generated, extractor)
    torch.set_default_dtype(torch.float32)
    assert inside == fid(real, generated, extractor)


@pytest.mark.parametrize(
    "allow",
    [
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    ],
    ids=["set_float32_matmul_precision", "cuda", "all"],
)
def test_features_are_of_float32_where_training_multiplies_with_fewer_digits(allow):
    class Precision(nn.Module):
        def forward(self, images):
            assert {each.fp32_precision for each in TF32_SETTINGS} == {"ieee"}
            return images.flatten(1).float()

    everything, before = torch.backends.fp32_precision, [each.fp32_precision for each in TF32_SETTINGS]
    allow()
    try:
        allowed = [each.fp32_precision for each in TF32_SETTINGS]
        pixels_as_features(16, network=Precision())(gaussian_images(5, 16, seed=0))
        assert "tf32" in allowed
        assert [each.fp32_precision for each in TF32_SETTINGS] == allowed
    finally:
        torch.backends.fp32_precision = everything
        torch.set_float32_matmul_precision("highest")
        for each, precision in zip(TF32_SETTINGS, before, strict=True):
            each.fp32_precision = precision


@pytest.mark.parametrize("precision", ["high", "highest"])
def test_lightning_reads_the_precision_of_training_after_features(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        pixels_as_features(16)(gaussian_images(5, 16, seed=0))
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_inference_mode_around_one_call_does_not_spoil_the_next():
    images, extractor = gaussian_images(50, 4, seed=0), pixels_as_features(4)
    collector = Collector(extractor, CPU, 50)
    with torch.inference_mode():
        collector.add(range(25), images[:25].clone())
    collector.add(range(25, 50), images[25:])
    torch.testing.assert_close(collector.compute().sums.first, collected(images, extractor).sums.first)


def test_network_stays_frozen_in_evaluation_mode():
    network = nn.Sequential(Witness(), nn.Dropout(0.5), nn.Linear(4, 4))
    extractor = pixels_as_features(4, network=network).train()
    features = extractor(gaussian_images(5, 4, seed=0))
    assert not features.requires_grad
    assert torch.equal(features, extractor(gaussian_images(5, 4, seed=0)))
