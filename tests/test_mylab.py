"""The package of examples/mylab, installed beside the project and used from an empty folder: each of its parts, and all together."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import documents
import runs
from alphabar.errors import UserError
from alphabar.sampling.conditions import prompt_conditions
from test_program import install

LAB = runs.ROOT / "examples" / "mylab"
PAGE = (runs.ROOT / "docs" / "extending.md").read_text()
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

    def run(*words):
        env = {"PYTHONPATH": path, "ALPHABAR_CONFIG_HOME": str(tmp_path / "home")}
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
    rows = runs.table(Path("run/metrics.csv"))
    assert any(row["train/weight_norm"] for row in rows)
    assert rows[-1]["cell_size/n8-cell_size-ema-cool3"]  # of the samples of FID
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
    settings = ("num=8", "features=pixels", "statistics=[fid,cell_size]", "statistics.fid.allow_few=true", "sampler.num_steps=2")
    code, out, err = alphabar("evaluate", "checkpoint=run", *settings, SEARCH, "hydra.run.dir=measured")
    assert code == 0, err
    assert "cell_size  cell_size" in out
    assert "cell_size/n8-cell_size-ema-ddim2" in runs.figures("measured")


@pytest.fixture
def lab(command, monkeypatch, tmp_path):
    """A copy of the package, in whose folder commands run in this process; what they import of it ends with the test."""
    shutil.copytree(LAB, tmp_path / "lab")
    monkeypatch.chdir(tmp_path / "lab")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield command
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def test_the_page_shows_every_file_as_it_is():
    shown = dict(re.findall(r"^`(mylab/\S+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    files = [path for path in (LAB / "mylab").rglob("*") if path.suffix in (".py", ".yaml") and path.name != "__init__.py"]
    assert shown == {str(path.relative_to(LAB)): path.read_text() for path in files}
    assert len(shown) == 16
    assert documents.blocks(PAGE, "toml") == [(LAB / "pyproject.toml").read_text()]


def small(name, words):
    """Returns the words of a command of the page with the least of everything."""
    words = [word.replace("outputs/train/NAME", "first") for word in words]
    if "--help" in words:
        return words
    if name == "sample":
        return [*without(words, "num"), "num=2", "sampler.num_steps=2", "film=0"]
    if name == "evaluate":
        few = ["num=8", "statistics.fid.allow_few=true", "sampler.num_steps=2"]
        return [*without(words, "num"), *few, "features=pixels", "features.max_images=50"]
    words = documents.jobs(without(words, "name"))[0]
    if any(word.startswith("resume=") for word in words):
        return [*without(words, "trainer.max_steps"), "trainer.max_steps=2"]
    cells = ["data.dataset.num=60"] if {"data=cells", "experiment=cells"} & set(words) else []
    return [
        *words,
        *cells,
        *runs.BRIEF,
        "trainer.max_steps=1",
        "trainer.log_every_n_steps=1",
        "logger=csv",
        "report=false",
        "callbacks.held_out_loss.num=4",
        "data.batch_size=4",
    ]


def without(words, key):
    return [word for word in words if documents.key(word) != key]


def test_the_page_can_be_followed_and_a_stranger_has_to_trust(lab, monkeypatch, tmp_path):
    commands = [words for words in documents.commands_of(PAGE) if words[0] == "alphabar"]
    assert {words[1] for words in commands} == {"train", "sample", "evaluate"}
    assert len(commands) > 10
    for number, (_, name, *words) in enumerate(commands):
        folder = "first" if number == 0 else f"out/{number}"
        here = [] if "--help" in words or any(word.startswith("resume=") for word in words) else [f"hydra.run.dir={folder}"]
        code, out, err = lab(name, *small(name, words), *here)
        assert code == 0, f"{words}\n{err}"
        assert "--help" not in words or "dilated                  Four dilated convolutions" in out
        assert name != "evaluate" or "cell_size  cell_size" in out
    rows = runs.table(Path("first/metrics.csv"))
    assert any(row["train/weight_norm"] for row in rows)

    monkeypatch.setenv("ALPHABAR_CONFIG_HOME", str(tmp_path / "stranger"))
    draw = ("checkpoint=first", "num=2", "sampler.num_steps=2", "film=0")
    code, _, err = lab("sample", *draw)
    assert (code, err.count("\n")) == (2, 1)
    assert "_target_ mylab." in err
    assert err.endswith("trust=[mylab]\n")
    assert lab("sample", *draw, "trust=[mylab]")[::2] == (0, "")


def test_a_condition_of_classes_is_dropped_in_training_alone(lab):
    sys.path.insert(0, ".")
    module = importlib.import_module("mylab.conditioners")
    conditioner = module.OneHot(num_classes=4, dropout=0.5)
    batch = {"label": torch.arange(4).repeat(100)}
    rows = conditioner(batch)["vector"]
    assert 150 < (rows == 0).all(1).sum() < 250
    assert torch.equal(conditioner.eval()(batch)["vector"], conditioner.from_prompts(list("0123") * 100)["vector"])
    assert not conditioner.null(2)["vector"].any()
    with pytest.raises(UserError, match=r"^labels: 'two' is not in list; the classes are 0, 1, 2, 3$"):
        prompt_conditions(conditioner, ["two"], "labels")


def test_a_condition_of_classes_needs_classes(lab):
    code, _, err = lab("train", "--config-dir=mylab/conf", "data=cells", "conditioner=one_hot", "hydra.run.dir=out")
    assert (code, err) == (2, "error: conditioner=one_hot needs images with classes, and these data have none\n")


def test_a_callback_needs_no_file(lab):
    words = (
        *runs.BRIEF,
        "trainer.max_steps=1",
        "trainer.log_every_n_steps=1",
        "logger=csv",
        "report=false",
        "callbacks.held_out_loss.num=4",
        "hydra.run.dir=out",
    )
    assert lab("train", "+callbacks.norm._target_=mylab.callbacks.WeightNorm", *words)[::2] == (0, "")
    assert any(row["train/weight_norm"] for row in runs.table(Path("out/metrics.csv")))
