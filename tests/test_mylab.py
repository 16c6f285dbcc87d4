"""The package of examples/mylab, installed beside the project and used from an empty folder: each of its parts, and all together."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import runs
from test_program import install

LAB = runs.ROOT / "examples" / "mylab"
SEARCH = "hydra.searchpath=[pkg://mylab.conf]"
TINY = (
    "logger=csv",
    "features=pixels",
    "features.max_images=50",
    "data.dataset.num=60",
    "data.batch_size=8",
    "network.width=4",
    "sampler.num_steps=3",
    "trainer.log_every_n_steps=1",
    "report=false",
    "callbacks.curves=null",
    "callbacks.film=null",
    "callbacks.samples.num=4",
    "callbacks.fid.num=8",
    "callbacks.held_out_loss.num=4",
)


def install_lab(folder):
    """Installs mylab into a folder, out of a copy, since a build leaves files beside what it builds."""
    shutil.copytree(LAB, folder / "sources")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "lab"), str(folder / "sources")]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(folder / "sources")


@pytest.fixture
def alphabar(shell, tmp_path):
    """The installed program, with mylab installed beside it, in an empty folder: (exit code, stdout, stderr)."""
    installed, lab = runs.shared("wheel", install) / "installed", runs.shared("mylab", install_lab) / "lab"
    path = os.pathsep.join([str(installed), str(lab)])

    def run(*words, home="home"):
        env = {"PYTHONPATH": path, "ALPHABAR_CONFIG_HOME": str(tmp_path / home)}
        return runs.run(str(installed / "bin" / "alphabar"), *words, cwd=".", env=env)

    return run


def losses(folder):
    """{step: loss} of a run."""
    return {row["step"]: row["train/loss"] for row in runs.table(Path(folder) / "metrics.csv") if row["train/loss"]}


def test_all_parts_are_trained_resumed_swept_sampled_and_evaluated(alphabar):
    code, out, err = alphabar("train", SEARCH, "experiment=cells", *TINY, "trainer.max_steps=3", "hydra.run.dir=run")
    assert code == 0, err
    assert "network    Dilated" in out
    assert "method     V, Circle, Denoising, Pixels, Waves" in out
    (start,) = json.loads(Path("run/receipt.json").read_text())["starts"]
    assert start["code"] is None  # neither the program nor mylab comes from a checkout
    code, _, err = alphabar("train", "resume=run", "trainer.max_steps=5")  # without a word on where mylab lies, or trust
    assert code == 0, err
    assert any(row["train/weight_norm"] for row in runs.table(Path("run/metrics.csv")))
    sweep = ("sampler.temperature=0.5,1", "trainer.max_steps=5", "hydra.sweep.dir=sweep")
    code, _, err = alphabar("train", "-m", SEARCH, "experiment=cells", *TINY, *sweep)
    assert code == 0, err
    assert [OmegaConf.load(f"sweep/{job}/config.yaml").sampler.temperature for job in (0, 1)] == [0.5, 1]
    assert losses("run") == losses("sweep/0") == losses("sweep/1")  # one that stopped, and two that did not
    assert len(losses("run")) == 5

    words = ("checkpoint=run", "num=2", "batch_size=2", "format=npz", "film=0", SEARCH, "sampler=cool", "sampler.num_steps=3")
    code, _, err = alphabar("sample", *words, "vectors=[[3,5,5],[5,11,11]]", "hydra.run.dir=drawn")
    assert code == 0, err
    with np.load("drawn/images.npz") as file:
        assert file["images"].shape[:3] == (2, 16, 16)
    settings = ("num=80", "features=pixels", "metric=cells", SEARCH, "sampler.num_steps=2", "hydra.run.dir=measured")
    code, out, err = alphabar("evaluate", "checkpoint=run", *settings)
    assert code == 0, err
    assert "cell_size  cell_size" in out
    assert "cell_size/n80-cell_size-ema-ddim2" in runs.figures("measured")

    code, _, err = alphabar("sample", *words, "hydra.run.dir=nothing", home="another")
    assert (code, err.count("\n")) == (2, 1)
    assert "_target_ mylab." in err
    assert err.endswith("trust=[mylab]\n")
    code, _, err = alphabar("sample", *words, "trust=[mylab]", "hydra.run.dir=trusted", home="another")
    assert code == 0, err
