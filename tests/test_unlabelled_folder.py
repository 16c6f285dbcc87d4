"""Images of one's own, without classes and without a network to the outside: they are trained on and judged all the same."""

import csv

import pytest
from PIL import Image

import runs
from alphabar.data.digits import DigitsSource
from alphabar.metrics import self_supervised

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
