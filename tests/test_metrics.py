"""The Frechet distance, the real images that it is measured against, and what several processes make of them."""

import logging
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from alphabar.errors import UserError
from alphabar.training.data.resident import ResidentImages
from alphabar.training.metrics import Splits, names
from alphabar.training.metrics.extractor import Extractor
from alphabar.training.metrics.frechet import FrechetDistance, frechet_distance
from alphabar.training.metrics.reference import Floor, batches, learn_real, measure_floor
from alphabar.training.ranks import from_first, rank_and_size

CPU = torch.device("cpu")


class Witness(nn.Module):
    """Pixels as features; remembers what it was shown."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images.flatten(1).float()


def pixels_as_features(num_features, cache_dir=Path("/nowhere"), network=None, record="pixels", channels=(1,)):
    return Extractor(network or Witness(), num_features, "pixels", record, channels, 100, cache_dir)


def gaussian_images(num, num_pixels, seed, mean=100.0, std=10.0):
    values = mean + std * torch.randn(num, 1, num_pixels, 1, generator=torch.Generator().manual_seed(seed))
    return values.round().clamp(0, 255).to(torch.uint8)


def fid(real, generated, extractor=None):
    distance = FrechetDistance(extractor or pixels_as_features(real[0].numel()), CPU)
    distance.update_real(real)
    distance.update_generated(generated)
    return distance.compute()


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
    found = frechet_distance(torch.zeros(64), basis @ torch.diag(std1**2) @ basis.T, shift, basis @ torch.diag(std2**2) @ basis.T)
    assert found == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("rank", [64, 20], ids=["full_rank", "fewer_images_than_features"])
def test_distance_equals_that_of_torchmetrics(rank):
    cov1, cov2 = covariance(64, rank, seed=1), 2 * covariance(64, 64, seed=2)
    mean1, mean2 = torch.zeros(64).double(), torch.linspace(0, 1, 64).double()
    expected = float(_compute_fid(mean1, cov1, mean2, cov2))
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-6)


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
    distance = FrechetDistance(pixels_as_features(4 * channels, network=witness, channels=(1, 3)), CPU)
    for update in (distance.update_real, distance.update_generated):
        update(images)
        assert witness.seen.dtype == torch.uint8
        assert torch.equal(witness.seen, images)
    assert distance.sums()[0].first[0] == 4 * 200 + 255


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
    distance = FrechetDistance(pixels_as_features(4), CPU)
    with pytest.raises(ValueError, match=r"need torch.uint8 images \[B, C, H, W\] with C = 1") as error:
        distance.update_generated(images)
    assert str(error.value).endswith(got)


class NaNForWhite(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1).float()
        return features.masked_fill(features == 255, math.nan)


def test_features_that_are_not_finite_give_nan_and_a_line(caplog):
    real, generated = gaussian_images(20, 4, seed=0), gaussian_images(20, 4, seed=1)
    generated[3] = 255
    assert math.isnan(fid(real, generated, pixels_as_features(4, network=NaNForWhite())))
    assert caplog.messages == ["no FID: the pixels features of some images are NaN or infinite"]


def test_too_few_images_give_nan_and_a_line(caplog):
    assert math.isnan(fid(gaussian_images(20, 4, seed=0), torch.empty(0, 1, 4, 1, dtype=torch.uint8)))
    assert caplog.messages == ["no FID: it takes two images of each kind, got 20 real and 0 generated"]


def test_reset_keeps_the_real_images():
    real, first, second = (gaussian_images(num, 4, seed=num) for num in (30, 31, 32))
    distance = FrechetDistance(pixels_as_features(4), CPU)
    distance.update_real(real)
    distance.update_generated(first)
    distance.compute()
    assert (distance.num_real, distance.num_generated) == (30, 31)
    distance.reset()
    distance.update_generated(second)
    assert distance.compute() == fid(real, second)
    assert (distance.num_real, distance.num_generated) == (30, 32)


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


def test_inference_mode_around_one_call_does_not_spoil_the_next():
    real, generated = gaussian_images(50, 4, seed=0), gaussian_images(50, 4, seed=1)
    with torch.inference_mode():
        distance = FrechetDistance(pixels_as_features(4), CPU)
        distance.update_generated(generated.clone())
        distance.reset()
    distance.update_real(real)
    distance.update_generated(generated)
    assert distance.compute() == fid(real, generated)


def test_network_stays_frozen_in_evaluation_mode():
    network = nn.Sequential(Witness(), nn.Dropout(0.5), nn.Linear(4, 4))
    extractor = pixels_as_features(4, network=network).train()
    features = extractor(gaussian_images(5, 4, seed=0))
    assert not features.requires_grad
    assert torch.equal(features, extractor(gaussian_images(5, 4, seed=0)))


def test_it_does_not_join_the_weights_of_a_module_that_holds_it():
    module = nn.Module()
    module.fid = FrechetDistance(pixels_as_features(8, network=nn.Linear(16, 8)), CPU)
    assert not module.state_dict()


def splits_of(train, held_out=None, fingerprint="data"):
    empty = torch.empty(0, *train.shape[1:], dtype=torch.uint8)
    return Splits(ResidentImages(train, None), ResidentImages(empty if held_out is None else held_out, None), fingerprint)


@pytest.mark.parametrize("num", [None, 30], ids=["all", "some"])
def test_real_images_are_measured_once(tmp_path, num):
    splits = splits_of(gaussian_images(50, 4, seed=0))
    generated = gaussian_images(20, 4, seed=1)
    found = []
    for _ in range(2):
        witness = Witness()
        distance = FrechetDistance(pixels_as_features(4, tmp_path, witness), CPU)
        learn_real(distance, splits, num, batch_size=7)
        found.append("seen" in vars(witness))
        distance.update_generated(generated)
        assert distance.compute() == pytest.approx(fid(splits.train.pixels[:num], generated), rel=1e-9)
        assert distance.num_real == (num or 50)
    assert found == [True, False]


@pytest.mark.parametrize("change", ["data", "features", "num", "damage"])
def test_real_images_are_measured_again_after_a_change(tmp_path, caplog, change):
    images = gaussian_images(50, 4, seed=0)
    learn_real(FrechetDistance(pixels_as_features(4, tmp_path), CPU), splits_of(images), 40, batch_size=25)
    (path,) = tmp_path.iterdir()
    if change == "damage":
        path.write_bytes(path.read_bytes()[:-100])
    witness = Witness()
    extractor = pixels_as_features(4, tmp_path, witness, record="others" if change == "features" else "pixels")
    splits = splits_of(images, fingerprint="other" if change == "data" else "data")
    learn_real(FrechetDistance(extractor, CPU), splits, 50 if change == "num" else 40, batch_size=25)
    assert "seen" in vars(witness)
    assert len(caplog.messages) == (change == "damage")
    assert len(list(tmp_path.iterdir())) == (1 if change == "damage" else 2)


def test_floor_is_the_distance_of_as_many_held_out_images(tmp_path, caplog):
    train, held_out = gaussian_images(500, 16, seed=0), gaussian_images(300, 16, seed=1)
    distance = FrechetDistance(pixels_as_features(16, tmp_path), CPU)
    learn_real(distance, splits_of(train), None, batch_size=100)
    distance.update_generated(gaussian_images(10, 16, seed=2, mean=0.0))
    floor = measure_floor(distance, ResidentImages(held_out, None), 200, batch_size=64)
    assert floor == Floor(pytest.approx(fid(train, held_out[:200]), rel=1e-9), 200)
    assert not caplog.messages
    assert distance.sums()[1].num == 0


def test_floor_says_when_there_are_fewer_held_out_images(tmp_path, caplog):
    train, held_out = gaussian_images(100, 4, seed=0), gaussian_images(30, 4, seed=1)
    distance = FrechetDistance(pixels_as_features(4, tmp_path), CPU)
    learn_real(distance, splits_of(train), None, batch_size=100)
    floor = measure_floor(distance, ResidentImages(held_out, None), 200, batch_size=64)
    assert floor is not None
    assert floor.num_images == 30
    assert caplog.messages == ["the data has 30 held-out images, so the floor of FID is not at n=200 as FID itself"]
    assert measure_floor(distance, ResidentImages(held_out[:1], None), 200, batch_size=64) is None


def test_names_carry_the_protocol():
    assert names.protocol(1000, "classifier", "ema", "ddim50") == "fid/n1000-classifier-ema-ddim50"
    assert names.floor_protocol(1000, "classifier") == "fid/floor-n1000-classifier"


def work_of_one_rank(rank, folder):
    """What each of two processes does in the test below."""
    logging.disable()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    splits = splits_of(gaussian_images(41, 16, seed=0))
    results = {"from_first": from_first(lambda: {"made on": dist.get_rank()})}
    try:
        from_first(lambda: fail(rank))
    except UserError as error:
        results["error"] = str(error)
    for name in ("computed", "cached"):
        distance = FrechetDistance(pixels_as_features(16, folder / "cache"), CPU)
        learn_real(distance, splits, None, batch_size=4)
        for images in batches(ResidentImages(gaussian_images(13, 16, seed=1), None), 13, batch_size=2):
            distance.update_generated(images)
        results[name] = (distance.compute(), distance.num_real, distance.num_generated)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def fail(rank):
    raise UserError(f"no data on rank {rank}")


def test_two_processes_measure_what_one_does(tmp_path):
    """13 images: dealt out without padding; sums from the cache are not counted twice; what fails on one fails on both."""
    torch.multiprocessing.spawn(work_of_one_rank, (tmp_path,), nprocs=2)
    expected = fid(gaussian_images(41, 16, seed=0), gaussian_images(13, 16, seed=1))
    for rank in range(2):
        results = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert results["from_first"] == {"made on": 0}
        assert results["error"] == "no data on rank 0"
        for name in ("computed", "cached"):
            value, num_real, num_generated = results[name]
            assert (num_real, num_generated) == (41, 13)
            assert value == pytest.approx(expected, rel=1e-6)
    assert rank_and_size() == (0, 1)
