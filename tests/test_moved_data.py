"""Runs whose images lie elsewhere now: the key that says where, and whether they are the same images."""

import shutil

import pytest
from omegaconf import OmegaConf
from PIL import Image

import runs

WORDS = ["data=folder", "data.root=photos", "data.resolution=8", "network=unet_tiny", "features=classifier", "data.batch_size=4"]
GONE = "there is no folder {here}/photos; data_root=... says where the data lie now"


@pytest.fixture
def moved(tmp_path):
    """The working directory has a copy of a run, whose images have been moved from photos to moved, and of these."""

    def make(home):
        for index in range(24):
            (home / "photos").mkdir(exist_ok=True)
            Image.new("RGB", (8, 8 + index), (10 * index, 0, 0)).save(home / "photos" / f"{index}.png")
        words = runs.words(*WORDS, *runs.BRIEF, "hydra.run.dir=run", tiny=[*runs.TINY, "data.batch_size=4"])
        code, _, err = runs.run("train.py", *words, cwd=home)
        assert code == 0, err
        (home / "photos").rename(home / "moved")

    shutil.copytree(runs.shared("run_with_moved_images", make), tmp_path, dirs_exist_ok=True)


MESSAGES = {
    "gone": (["train", "resume=run"], GONE),
    "gone-sample": (["sample", "checkpoint=run", "task=encode", "num=2"], GONE),
    "gone-evaluate": (["evaluate", "checkpoint=run", "num=4"], GONE),
    "nowhere": (["train", "resume=run", "data_root=no"], "there is no folder {here}/no; data_root=... says where the data lie now"),
    "key-of-a-new-run": (
        ["train", "resume=run", "data.root=moved"],
        "data.root=moved: a run that is resumed takes data_root=..., where its images lie now",
    ),
    "new-run": (
        ["train", "data=folder", "data.root=moved", "data_root=moved"],
        "data_root=moved: is for a run that is resumed; one that begins takes data.root=...",
    ),
    "fewer": (
        ["train", "resume=run", "data_root=fewer"],
        "data_root=fewer: these are not the images that the run began with: 23 images, 24 then",
    ),
    "others": (
        ["train", "resume=run", "data_root=others"],
        "data_root=others: these are not the images that the run began with: other names or sizes",
    ),
}


@pytest.mark.parametrize(("words", "message"), MESSAGES.values(), ids=MESSAGES)
@pytest.mark.usefixtures("moved")
def test_each_command_names_its_own_key(command, tmp_path, words, message):
    shutil.copytree(tmp_path / "moved", tmp_path / "fewer")
    (tmp_path / "fewer" / "3.png").unlink()
    shutil.copytree(tmp_path / "moved", tmp_path / "others")
    (tmp_path / "others" / "3.png").rename(tmp_path / "others" / "x.png")
    code, _, err = command(*words)
    assert (code, err.splitlines()[-1]) == (2, f"error: {message.format(here=tmp_path)}")


@pytest.mark.usefixtures("moved")
def test_a_run_goes_on_with_images_that_have_moved_and_knows_where_they_are(command, tmp_path):
    code, _, err = command("train", "resume=run", "data_root=moved", "trainer.max_steps=3")
    assert code == 0, err
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert config.data.root == str(tmp_path / "moved")
    assert runs.checkpoint(tmp_path / "run")["global_step"] == 3
    (tmp_path / "moved" / "more.png").write_bytes((tmp_path / "moved" / "1.png").read_bytes())
    code, _, err = command("train", "resume=run")
    assert code == 0, err
    assert "the images are no longer those that the run began with: 25 images, 24 then" in err


@pytest.mark.usefixtures("moved")
def test_a_command_that_is_repeated_names_images_that_have_changed(command, tmp_path):
    (tmp_path / "moved").rename(tmp_path / "photos")
    (tmp_path / "photos" / "more.png").write_bytes((tmp_path / "photos" / "1.png").read_bytes())
    words = runs.words(*WORDS, *runs.BRIEF, "hydra.run.dir=run", "resume=auto", "trainer.max_steps=3")
    for _ in range(2):
        code, _, err = command("train", *words, "data.batch_size=4")
        assert code == 0, err
        assert "the images are no longer those that the run began with: 25 images, 24 then" in err


@pytest.mark.usefixtures("moved")
@pytest.mark.parametrize("noted", [{"num": "x", "names_and_sizes": "y"}, ["x"], {"num": 1}])
def test_notes_of_the_images_that_no_run_writes_are_none(command, tmp_path, noted):
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    config.image_files = noted
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    code, _, err = command("train", "resume=run", "data_root=moved", "trainer.max_steps=3")
    assert code == 0, err
    assert "no longer" not in err
