"""The real images that generated ones are measured against, on one process and on several."""

import logging
import os
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.errors import UserError
from alphabar.evaluation import reference_statistics
from alphabar.evaluation.diagnostics import diagnose_images
from alphabar.evaluation.measurement import measure_images
from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.metrics import names
from alphabar.metrics.real import indices_of_rank, real_image_features
from alphabar.metrics.statistics.frechet import Frechet, mean_over_sets
from alphabar.runs.processes.distributed import from_first, rank_and_size
from alphabar.sampling.sampling_job import SampleBatch
from simple_features import CPU, Witness, collected, fid, gaussian_images, pixels_as_features, splits_of
from warm_process import warm_context


def reference_of(splits, num, extractor, **statistics):
    return ReferenceStatistics(extractor, statistics or {"fid": Frechet()}, splits, CPU, num, batch_size=7)


def test_it_does_not_join_the_weights_of_a_module_that_holds_it(tmp_path):
    module = nn.Module()
    extractor = pixels_as_features(8, tmp_path, network=nn.Sequential(Witness(), nn.Linear(16, 8)))
    module.reference = reference_of(splits_of(gaussian_images(50, 16, seed=0)), 20, extractor)
    assert not module.state_dict()


def test_real_images_are_measured_once(tmp_path):
    images, generated = gaussian_images(50, 4, seed=0), gaussian_images(20, 4, seed=1)
    found = []
    for _ in range(2):
        witness = Witness()
        extractor = pixels_as_features(4, tmp_path, witness)
        reference = reference_of(splits_of(images), 20, extractor)
        found.append("seen" in vars(witness))
        assert reference.figures(collected(generated, extractor))["fid"] == pytest.approx(fid(images, generated), rel=1e-9)
        assert reference.real.num == 50
        assert torch.equal(reference.real.features.rows, images.flatten(1).float())
        assert float(reference.real.pixels.mean) == pytest.approx(float(images.double().mean()))
    assert found == [True, False]


def test_no_more_real_images_are_measured_than_the_features_take(tmp_path):
    images, generated = gaussian_images(50, 4, seed=0), gaussian_images(20, 4, seed=1)
    extractor = pixels_as_features(4, tmp_path)
    extractor.max_reference = 30
    reference = reference_of(splits_of(images), 20, extractor)
    assert reference.real.num == 30
    assert reference.figures(collected(generated, extractor))["fid"] == pytest.approx(fid(images[:30], generated), rel=1e-9)


def test_rows_of_the_cache_are_read_when_they_are_used(tmp_path):
    """They are a map of the file, so that what a later write changes in it shows."""
    images = ResidentImages(gaussian_images(50, 4, seed=0), None)
    first, again = (real_image_features(pixels_as_features(4, tmp_path), CPU, images, "train", "data", 50, 25) for _ in range(2))
    assert torch.equal(first.features.rows, again.features.rows)
    (path,) = tmp_path.glob("real-*.rows")
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(7).tobytes())
    assert again.features.rows[-1, -1] == 7


@pytest.mark.parametrize("change", ["data", "features", "num", "damage", "half", "damaged rows", "no rows"])
def test_real_images_are_measured_again_after_a_change(tmp_path, caplog, change):
    images = ResidentImages(gaussian_images(50, 4, seed=0), None)
    real_image_features(pixels_as_features(4, tmp_path), CPU, images, "train", "data", 40, batch_size=25)
    (path,) = tmp_path.glob("*.rows" if "rows" in change else "*.pt")
    content = path.read_bytes()
    if change == "no rows":
        path.unlink()
    if change in ("damage", "damaged rows"):
        path.write_bytes(content[:-100] + bytes(byte ^ 1 for byte in content[-100:]))
    if change == "half":
        path.write_bytes(content[: len(content) // 2])
    witness = Witness()
    extractor = pixels_as_features(4, tmp_path, witness, description="others" if change == "features" else "pixels")
    num, fingerprint = 50 if change == "num" else 40, "other" if change == "data" else "data"
    found = real_image_features(extractor, CPU, images, "train", fingerprint, num, batch_size=25)
    assert "seen" in vars(witness)
    assert len(found.features.rows) == num
    assert len(caplog.messages) == (change in ("damage", "half", "damaged rows"))
    assert len(list(tmp_path.glob("*.pt"))) == (2 if change in ("data", "features", "num") else 1)


def test_a_run_says_which_features_are_kept_from_an_earlier_one(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    splits = splits_of(gaussian_images(50, 4, seed=0), gaussian_images(30, 4, seed=1))
    for num in (20, 20, 10):
        reference_of(splits, num, pixels_as_features(4, tmp_path))
    assert caplog.messages == [
        "pixels features: those of 50 training and 20 held-out images are kept from an earlier run",
        "pixels features: those of 50 training images are kept from an earlier run",
    ]


def test_cache_that_cannot_be_written_costs_a_line_and_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    images = ResidentImages(gaussian_images(50, 4, seed=0), None)
    found = real_image_features(pixels_as_features(4, tmp_path / "file"), CPU, images, "train", "data", 40, batch_size=25)
    assert found.num == len(found.features.rows) == 40
    assert caplog.messages


def test_content_of_real_images_is_what_they_are_and_not_where_they_lie(tmp_path):
    pixels = gaussian_images(50, 4, seed=0)
    first = real_image_features(
        pixels_as_features(4, tmp_path), CPU, ResidentImages(pixels, None), "train", "here", 50, batch_size=25
    )
    moved = real_image_features(
        pixels_as_features(4, tmp_path), CPU, ResidentImages(pixels.flip(0), None), "train", "there", 50, batch_size=7
    )
    pixels[0, 0, 0, 0] += 1
    changed = real_image_features(
        pixels_as_features(4, tmp_path), CPU, ResidentImages(pixels, None), "train", "other", 50, batch_size=25
    )
    assert first.content == moved.content != changed.content


def test_floor_is_the_distance_of_as_many_held_out_images(tmp_path):
    train, held_out = gaussian_images(500, 16, seed=0), gaussian_images(300, 16, seed=1)
    reference = reference_of(splits_of(train, held_out), 200, pixels_as_features(16, tmp_path))
    assert reference.floor()["fid"] == pytest.approx(fid(train, held_out[:200]), rel=1e-9)
    assert reference.held_out.num == 200
    assert reference_of(splits_of(train, held_out[:1]), 200, pixels_as_features(16, tmp_path)).floor() == {}


def test_fid_is_measured_of_as_many_images_as_are_held_out(tmp_path, caplog):
    """It is the mean over disjoint sets, in the order of the images, and alone has that floor."""
    train, held_out, generated = (gaussian_images(num, 16, seed) for seed, num in enumerate((500, 30, 100)))
    extractor = pixels_as_features(16, tmp_path)
    reference = reference_of(splits_of(train, held_out), 100, extractor)
    found = reference.figures(collected(generated, extractor, num_rows=100))
    assert found["fid"] == pytest.approx(fid(train, generated), rel=1e-9)
    assert found["fid_mean"] == pytest.approx(fmean(fid(train, part) for part in generated.split(30)[:3]), rel=1e-9)
    assert reference.floor() == {"fid_mean": pytest.approx(fid(train, held_out), rel=1e-9)}
    assert reference.statistic_names["fid_mean"] == "fid"
    assert "fid_mean" not in reference.figures(collected(generated[:30], extractor, num_rows=30))
    assert caplog.messages == [
        "the floor of FID is of 30 held-out images; fid_mean, of as many samples at a time, compares with it"
    ]
    equal = reference_of(splits_of(train, generated), 100, extractor)
    assert "fid_mean" not in equal.figures(collected(generated, extractor, num_rows=100))
    assert len(caplog.messages) == 1


def test_a_floor_of_few_images_is_said_to_tell_little(tmp_path, caplog):
    train, held_out = gaussian_images(100, 16, seed=0), gaussian_images(10, 16, seed=1)
    extractor = pixels_as_features(16, tmp_path)
    refused = reference_of(splits_of(train, held_out), 20, extractor)
    allowed = reference_of(splits_of(train, held_out), 20, extractor, fid=Frechet(allow_few=True))
    images = collected(gaussian_images(20, 16, seed=2), extractor, num_rows=20)
    assert (refused.floor(), "fid_mean" in refused.figures(images)) == ({}, False)
    assert (list(allowed.floor()), "fid_mean" in allowed.figures(images)) == (["fid_mean"], True)
    no_floor, little = caplog.messages
    assert no_floor.startswith("FID has no floor: it takes 17 held-out images in pixels features, got 10; hold out more images, ")
    assert little.endswith(
        "with so few for 16 pixels features it tells little: hold out more images, of a folder with data.held_out=0.3"
    )


def test_held_out_images_are_as_many_as_the_single_features_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(reference_statistics, "NUM_ROWS", 20)
    train, held_out = gaussian_images(100, 4, seed=0), gaussian_images(30, 4, seed=1)
    extractor = pixels_as_features(4, tmp_path)
    fewer, equal = (reference_of(splits_of(train, held_out), num, extractor) for num in (50, 30))
    assert (fewer.held_out.num, equal.held_out.num) == (20, 30)
    collector = fewer.collector()
    collector.add(range(50), gaussian_images(50, 4, seed=2))
    assert "fid_mean" in fewer.figures(collector.compute())


@pytest.mark.parametrize(("num_features", "num_sets"), [(512, 10), (513, 3)])
def test_wide_features_are_measured_of_fewer_sets(num_features, num_sets):
    """A set that is left out may be anything."""
    images = gaussian_images(22, num_features, seed=0)
    generated, real = (collected(each, pixels_as_features(num_features), 22) for each in (images, images.flip(0)))
    found = mean_over_sets(generated, real, 2)
    generated.rows[2 * num_sets :] = 0
    assert mean_over_sets(generated, real, 2) == found
    generated.rows[2 * num_sets - 1] = 0
    assert mean_over_sets(generated, real, 2) != found
    assert mean_over_sets(generated, real, 23) is None


@pytest.mark.parametrize(("num", "num_real", "kind"), [(16, 100, "generated"), (100, 16, "training")])
def test_too_few_images_for_a_figure_are_refused(tmp_path, num, num_real, kind):
    with pytest.raises(UserError, match=rf"^statistics.fid: takes 17 images of each kind in pixels features, got 16 {kind}"):
        reference_of(splits_of(gaussian_images(num_real, 16, seed=0)), num, pixels_as_features(16, tmp_path))
    reference_of(splits_of(gaussian_images(16, 16, seed=0)), 16, pixels_as_features(16, tmp_path), fid=Frechet(True))


def test_images_that_are_not_finite_are_counted_and_left_out(tmp_path):
    """As if they had never been there, but for a line that says so."""
    real, generated = gaussian_images(200, 16, seed=0), gaussian_images(100, 16, seed=1)
    finite = torch.ones(100, dtype=torch.bool)
    finite[[3, 50, 51]] = False
    broken = torch.where(finite[:, None, None, None], generated, 0)
    reference = reference_of(splits_of(real, real[:50]), 100, pixels_as_features(16, tmp_path))
    shares = [SampleBatch(part.tolist(), broken[part], finite[part]) for part in torch.arange(100).split(30)]
    measured = measure_images(shares, (1, 16, 1), [reference])
    assert measured.num_nonfinite == 3
    assert measured.figures["pixels"]["fid"] == pytest.approx(fid(real, generated[finite]), rel=1e-9)
    assert measured.pixels.num_images == 97
    found = diagnose_images(reference, measured)
    assert found.warnings[0] == "3 of 100 images have NaN or infinity in them, and are in no figure"
    nothing = measure_images([SampleBatch(list(range(100)), broken, torch.zeros(100, dtype=torch.bool))], (1, 16, 1), [reference])
    assert nothing.figures == {"pixels": {}}
    assert diagnose_images(reference, nothing).warnings == ("100 of 100 images have NaN or infinity in them, and are in no figure",)


def test_names_carry_the_protocol():
    assert names.figure_name("fid", 1000, "classifier", "ema-ddim50") == "fid/n1000-classifier-ema-ddim50"
    assert names.floor_figure_name("kid", 1000, "classifier") == "kid/floor-n1000-classifier"


def work_of_one_rank(rank, folder, world_size):
    """What each of several processes does in the test below."""
    logging.disable()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world_size}", rank=rank, world_size=world_size)
    splits = splits_of(gaussian_images(41, 16, seed=0), gaussian_images(20, 16, seed=2))
    results = {"from_first": from_first(lambda: {"made on": dist.get_rank()})}
    try:
        from_first(lambda: fail(rank))
    except UserError as error:
        results["error"] = str(error)
    generated = gaussian_images(19, 16, seed=1)
    for name in ("computed", "cached"):
        reference = reference_of(splits, 19, pixels_as_features(16, folder / f"cache{world_size}"))
        collector = reference.collector()
        for indices in indices_of_rank(19, batch_size=2):
            collector.add(indices, generated[indices])
        found = collector.compute()
        results[name] = (
            reference.figures(found)["fid"],
            reference.floor()["fid"],
            reference.real.num,
            found.num,
            reference.real.content,
        )
        assert torch.equal(found.rows, generated.flatten(1).float())
    fewer = splits_of(gaussian_images(41, 16, seed=0), gaussian_images(6, 16, seed=2))
    reference = reference_of(fewer, 19, pixels_as_features(16, folder / f"cache{world_size}"), fid=Frechet(allow_few=True))
    results["of six"] = reference.figures(found)["fid_mean"], reference.floor()["fid_mean"]
    torch.save(results, folder / f"{world_size}rank{rank}.pt")
    dist.destroy_process_group()


def fail(rank):
    raise UserError(f"no data on rank {rank}")


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_measure_what_one_does(tmp_path, world_size):
    """19 images: dealt out without padding; sums from the cache are not counted twice; what fails on one fails on all."""
    method = warm_context().get_start_method()
    torch.multiprocessing.start_processes(work_of_one_rank, (tmp_path, world_size), nprocs=world_size, start_method=method)
    real = gaussian_images(41, 16, seed=0)
    expected = fid(real, gaussian_images(19, 16, seed=1)), fid(real, gaussian_images(20, 16, seed=2)[:19])
    one_process = collected(gaussian_images(19, 16, seed=1), pixels_as_features(16), num_rows=19)
    of_six = (
        mean_over_sets(one_process, collected(real, pixels_as_features(16)), 6),
        Frechet(True).compute(*(collected(each, pixels_as_features(16)) for each in (gaussian_images(6, 16, seed=2), real)))["fid"],
    )
    content = real_image_features(
        pixels_as_features(16, tmp_path), CPU, ResidentImages(real, None), "train", "x", 41, batch_size=9
    ).content
    for rank in range(world_size):
        results = torch.load(tmp_path / f"{world_size}rank{rank}.pt", weights_only=True)
        assert results["from_first"] == {"made on": 0}
        assert results["error"] == "no data on rank 0"
        assert results["of six"] == pytest.approx(of_six, rel=1e-6)
        for name in ("computed", "cached"):
            value, floor, num_real, num_generated, found = results[name]
            assert (num_real, num_generated, found) == (41, 19, content)
            assert (value, floor) == pytest.approx(expected, rel=1e-6)
    assert rank_and_size() == (0, 1)
