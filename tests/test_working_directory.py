"""`hydra.job.chdir=true`: the process works in the folder of its run, and the paths of the user are still those of their shell."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import runs
from alphabar.files.paths import display_path, starting_in, user_path
from alphabar.files.picture_text import read_picture_text
from test_run_lines import lines, words_after


def labels(out):
    """The names of the lines of a command, but for the advice, which depends on the time that things took."""
    return [label for label in lines(out) if label != "faster"]


TRAIN = (
    "data=folder",
    "data.root=photos",
    "data.resolution=8",
    "data.batch_size=8",
    "network.base_channels=8",
    "network.norm_groups=4",
    "features.max_images=40",
)
BRIEF = (
    "callbacks.held_out_loss.num=4",
    "callbacks.samples=null",
    "callbacks.film=null",
    "callbacks.curves=null",
    "callbacks.fid.num=8",
    "callbacks.fid.batch_size=8",
    "sampler.num_steps=2",
    "logger=csv",
)
EVALUATE = ("num=8", "features.max_images=40", "sampler.num_steps=2", "statistics=fid", "statistics.fid.allow_few=true")


def test_paths_of_the_user_start_where_the_command_did(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert user_path("photos") == Path("photos")
    assert user_path("~/photos") == Path.home() / "photos"
    assert user_path("~nosuchuser/photos") == Path("~nosuchuser/photos")
    (tmp_path / "run").mkdir()
    monkeypatch.chdir("run")
    with starting_in(tmp_path):
        assert user_path("photos") == tmp_path / "photos"
        assert user_path("/photos") == Path("/photos")
        assert display_path(tmp_path / "photos") == "photos"
        assert display_path("/photos") == "/photos"
    assert user_path("photos") == Path("photos")


@pytest.mark.parametrize("names", [("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR"), ("TMPDIR",)], ids=" ".join)
def test_no_command_needs_a_place_beside_its_own(tmp_path, names):
    """Each of these is below a file, where nobody can make a folder, not even root."""
    (tmp_path / "file").touch()
    checkpoint = runs.trained(*runs.BRIEF) / "checkpoints" / "last.ckpt"
    words = (f"checkpoint={checkpoint}", "num=1", "sampler.num_steps=1", "hydra.run.dir=samples")
    code, _, err = runs.run("sample.py", *words, cwd=tmp_path, env=dict.fromkeys(names, str(tmp_path / "file" / "folder")))
    assert code == 0, err
    assert (tmp_path / "samples").is_dir()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(40):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    return folder


def test_every_command_does_what_it_does_without(command, tmp_path, photos, monkeypatch):
    monkeypatch.setattr("alphabar.metrics.features.classifier.MIN_STEPS", 3)
    monkeypatch.setattr("alphabar.metrics.features.classifier.MIN_EPOCHS", 0)
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "sigmas.txt").write_text("80 20 5 1\n")
    outputs, figures = {}, {}
    for folder, chdir in (("stays", "false"), ("moves", "true")):
        where = f"hydra.job.chdir={chdir}"

        def run(name, *words, folder=folder, where=where):
            code, out, err = command(name, *words, where)
            assert code == 0, err
            outputs[folder] = [*outputs.get(folder, ()), out.replace(folder, "FOLDER")]

        run("train", *TRAIN, *BRIEF, "trainer.max_steps=2", "lr_scheduler.warmup_steps=1", f"hydra.run.dir={folder}/run")
        run("train", f"resume={folder}/run", "trainer.max_steps=3")
        drawn = ("num=4", "format=npz", "film=2", "timesteps=file", "timesteps.path=sigmas.txt", "sampler.num_steps=null")
        run("sample", f"checkpoint={folder}/run", *drawn, f"hydra.run.dir={folder}/drawn")
        run(
            "sample",
            f"checkpoint={folder}/run",
            "task=image_to_image",
            "images=photos/a",
            "num=2",
            f"hydra.run.dir={folder}/varied",
        )
        checkpoint = f"checkpoint={folder}/run/checkpoints/last.ckpt"
        run("evaluate", checkpoint, *EVALUATE, f"paths.outputs={folder}", f"hydra.run.dir={folder}/measured")
        assert list(Path(folder, "cache", "features").glob("classifier*"))
        figures[folder] = runs.figures(f"{folder}/measured")
    stays, moves = (Path(folder, "run/config.yaml").read_text().replace(folder, "FOLDER") for folder in outputs)
    assert stays == moves
    for name in ("drawn/grid.png", "varied/grid.png"):
        stays, moves = (Path(folder, name) for folder in outputs)
        assert runs.pixels(stays) == runs.pixels(moves), name
        said = [read_picture_text(Path(folder, name))["Command"].replace(folder, "FOLDER") for folder in outputs]
        assert said[0] == said[1]
        assert said[0].startswith("python sample.py checkpoint=FOLDER/run ")
    receipts = [json.loads(Path(folder, "measured", "receipt.json").read_text()) for folder in outputs]
    assert receipts[0]["protocol"] == receipts[1]["protocol"]
    assert figures["stays"] == figures["moves"]
    first, second = outputs.values()
    assert [labels(out) for out in first] == [labels(out) for out in second]
    code, out, err = command("train", *words_after(outputs["moves"][1].replace("FOLDER", "moves")))
    assert code == 0, err
    assert "done: 6 steps" in out
