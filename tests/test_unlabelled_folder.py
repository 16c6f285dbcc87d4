"""Images of one's own, without classes and without a network to the outside: they are trained on and judged all the same."""

import csv
import re
from pathlib import Path

import pytest
from PIL import Image

import runs
from alphabar.data.sources.digits import DigitsSource
from alphabar.metrics.features import self_supervised

SMALL = ("data.resolution=8", "data.channels=1", f"features.cache_dir={runs.CACHE}")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Returns a function that writes digits, without their classes, into a folder; training of the features takes a moment."""
    monkeypatch.setattr(self_supervised, "NUM_STEPS", 3)
    images = DigitsSource().held_out().images(range(150))

    def write(name, num):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images[:num]):
            Image.fromarray(image[0].numpy()).save(tmp_path / name / f"{index:03d}.png")
        return name

    return write


@pytest.mark.parametrize("features", [[], ["features=pixels"]], ids=["auto", "pixels"])
def test_a_folder_is_judged_against_a_folder(command, folders, features):
    words = (f"samples={folders('mine', 100)}", "data=folder", f"data.root={folders('real', 150)}", *features)
    code, out, err = command("evaluate", *words, *SMALL, "hydra.run.dir=judged")
    assert code == 0, err
    name = "pixels" if features else "selfsup"
    found = runs.figures("judged")
    metrics = {"fid", "kid", "precision", "recall", "density", "coverage"}
    assert {f"{metric}/n100-{name}-samples" for metric in metrics} <= set(found)
    assert "inception" not in (out + err).lower()


def test_few_images_have_the_figures_that_are_defined(command, folders):
    real = ("data=folder", f"data.root={folders('real', 150)}", *SMALL)
    code, _, err = command("evaluate", f"samples={folders('few', 10)}", *real, "hydra.run.dir=judged")
    assert code == 0
    assert "left out: statistics.fid takes 65 images of each kind in selfsup features, got 10 generated images\n" in err
    assert {"kid/n10-selfsup-samples", "precision/n10-selfsup-samples"} <= set(runs.figures("judged"))
    code, _, err = command("evaluate", f"samples={folders('two', 2)}", *real, "hydra.run.dir=judged_two")
    assert (code, err.count("left out: ")) == (0, 1), err
    assert "kid/n2-selfsup-samples" in runs.figures("judged_two")
    code, _, err = command("evaluate", f"samples={folders('one', 1)}", *real, "hydra.run.dir=judged_one")
    assert code == 2
    assert err.endswith("\nerror: statistics.kid: takes 2 images of each kind in selfsup features, got 1 generated image\n")


def test_samples_are_compared_with_the_floor_of_fewer_held_out_images(command, folders):
    real = ("data=folder", f"data.root={folders('real', 150)}", "features=pixels", *SMALL, "hydra.run.dir=judged")
    words = (f"samples={folders('mine', 100)}", *real, "metric=fid")
    code, _, err = command("evaluate", *words)
    assert code == 0, err
    assert "FID has no floor: it takes 65 held-out images in pixels features, got " in err
    assert [name.partition("/")[0] for name in runs.figures("judged")] == ["fid"]
    code, out, err = command("evaluate", *words, "statistics.fid.allow_few=true", "hydra.run.dir=judged_again")
    assert code == 0, err
    fid, mean = out.splitlines()[2:4]
    assert "floor" not in fid
    assert re.search(r"^FID, sets of (\d+) .* x the floor +fid_mean/n\1-pixels-samples$", mean), out
    assert err.count("it tells little: hold out more images") == 1


def test_a_run_compares_its_fid_with_the_floor_of_as_many_images(command, folders):
    words = (
        "data=folder",
        f"data.root={folders('mine', 60)}",
        "features=pixels",
        *SMALL,
        "trainer.max_steps=2",
        "data.batch_size=8",
    )
    code, out, err = command(
        "train",
        *runs.words(*words, "preset=digits", "callbacks.fid.num=40", "callbacks.fid.every_n_steps=1", "report=true", folder="out"),
    )
    assert code == 0, err
    with open("out/metrics.csv") as file:
        names = [column for column in next(csv.reader(file)) if column.startswith("fid")]
    floor, fid, mean = names
    num = floor.removeprefix("fid/floor-n").removesuffix("-pixels")
    assert fid.startswith("fid/n40-pixels-ema-")
    assert mean == fid.replace("fid/n40", f"fid_mean/n{num}")
    assert re.search(rf"{fid} \S+ \(of {num} at a time \S+, \S+ x the floor of as many held-out images, ", out), out
    assert err.count("it tells little: hold out more images, of a folder with data.held_out=0.3") == 1
    page = Path("out/report.html").read_text()
    assert f"Of {num} samples at a time, as many as there are held-out images, it is " in page
    assert "so few images tell little; hold out more" in page
    assert re.search(rf"in sets of {num}: \S+, \S+ x the floor \S+ \(held-out images\)", page)
    assert "fid_mean alone compares with the floor" in page


@pytest.mark.parametrize(("num", "has_fid"), [(1, False), (2, True)])
def test_a_run_is_not_ended_by_too_few_images_for_its_figures(command, folders, num, has_fid):
    words = (
        "data=folder",
        f"data.root={folders('few', num)}",
        "data.held_out=0",
        *SMALL,
        "trainer.max_steps=1",
        "data.batch_size=1",
    )
    code, _, err = command("train", *runs.words(*words, "preset=digits", "callbacks.fid.num=8", folder="out"))
    assert code == 0, err
    assert ("no FID and no health of samples: features: selfsup learns from 2" in err) != has_fid
    with open("out/metrics.csv") as file:
        assert any(column.startswith("fid/n8-selfsup") for column in next(csv.reader(file))) == has_fid
