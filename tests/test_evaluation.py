"""`python evaluate.py`: checkpoints, files and real images, judged; receipts, and what they are compared by."""

import json
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image

import runs
from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App
from alphabar.data.sources.digits import DigitsSource
from alphabar.evaluation import receipt
from alphabar.runs.provenance.receipt import json_content
from alphabar.sampling.guidance_config import ClassifierFree

FEATURES = (f"features.cache_dir={runs.CACHE}", "features.max_images=200")
SUBCOMMANDS = {"compare": "alphabar.evaluation.compare:compare_command"}


def call(monkeypatch, *words):
    """The exit code of evaluate.py in this process."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    return execute(evaluate.main.__wrapped__, App(runs.ROOT / "conf", "evaluate", SUBCOMMANDS))


@pytest.fixture(scope="module")
def trained():
    return runs.trained("trainer.max_steps=20") / "checkpoints" / "last.ckpt"


def digits(num, what="held_out"):
    source = DigitsSource()
    return getattr(source, what)().images(range(num))


def save(images, folder):
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:04d}.png")
    return folder


def test_real_images_against_real_ones_are_the_floor(monkeypatch, shell, tmp_path, capsys):
    assert call(monkeypatch, "data=digits", *FEATURES, "hydra.run.dir=real") == 0
    found = runs.figures("real")
    assert set(found) >= {f"{what}/floor-n1000-classifier" for what in ("fid", "kid", "precision", "recall", "density", "coverage")}
    assert found["precision/floor-n1000-classifier"] > 0.7
    assert "1,000 images against 797 training images" in capsys.readouterr().out


def test_folders_and_arrays_of_the_same_images_have_the_same_figures(monkeypatch, shell, tmp_path):
    images = digits(200)
    folder = save(images, tmp_path / "images")
    np.savez(tmp_path / "images.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
    np.savez_compressed(tmp_path / "small.npz", labels=np.zeros(3), images=images.permute(0, 2, 3, 1).numpy())
    results = []
    for name, batch_size in ((folder, 30), ("images.npz", 250), ("small.npz", 64)):
        words = (f"samples={name}", "data=digits", f"batch_size={batch_size}", f"hydra.run.dir=out{batch_size}", *FEATURES)
        assert call(monkeypatch, *words) == 0
        found = receipt.read_receipt(tmp_path / f"out{batch_size}")
        assert found.protocol["num"] == 200
        results.append((found.figures, found.identity["content"]))
    assert results[0][1] == results[1][1] == results[2][1]
    for figures, _ in results[1:]:
        for one, other in zip(results[0][0], figures, strict=True):
            assert other.name == one.name
            if one.statistic not in (
                "inception_score",
                "kid",
            ):  # of parts and subsets, and each kind of files is mixed in its own way
                assert other.mean == pytest.approx(one.mean, rel=1e-6, abs=1e-6)


def test_copies_and_colour_shifts_are_flagged_and_honest_images_are_not(monkeypatch, shell, tmp_path, capsys):
    """A model that has learnt its training images by heart is the worst that memorisation can be."""
    train, held_out = digits(300, "train"), digits(300)
    shifted = (held_out.int() + 20).clamp(0, 255).to(torch.uint8)
    for name, images in (("copied", train), ("honest", held_out), ("shifted", shifted)):
        np.savez(tmp_path / f"{name}.npz", images=images.permute(0, 2, 3, 1).numpy())
        assert call(monkeypatch, f"samples={name}.npz", "data=digits", "metric=fid", f"hydra.run.dir={name}", *FEATURES) == 0
    lines = {name: receipt.read_receipt(tmp_path / name).diagnostics["complaints"] for name in ("copied", "honest", "shifted")}
    assert lines["honest"] == []
    assert len(lines["copied"]) == 1
    assert lines["copied"][0].startswith("memorisation: 100.0% of the images")
    assert any(line.startswith("colour cast") for line in lines["shifted"])
    assert "! memorisation" in capsys.readouterr().out
    with Image.open(tmp_path / "copied" / "memorisation.png") as picture:
        assert picture.width > 1000


def test_a_checkpoint_over_several_seeds(monkeypatch, shell, tmp_path, trained):
    words = (f"checkpoint={trained}", "num=66", "metric=fid", "sampler.num_steps=2", *FEATURES)
    assert call(monkeypatch, *words, "num_seeds=3", "hydra.run.dir=three") == 0
    found = receipt.read_receipt(tmp_path / "three")
    fid = found.figures[0]
    assert fid.name == "fid/n66-classifier-ema-ddim2"
    assert len(set(fid.values)) == 3
    assert fid.std == pytest.approx(float(np.std(fid.values, ddof=1)))
    assert found.protocol["seeds"] == [1, 2, 3]
    assert found.run["network_evaluations"] == 2
    assert found.run["seconds_per_image"] > 0
    assert found.identity["step"] == 20
    assert call(monkeypatch, *words, "seed=2", "hydra.run.dir=second") == 0
    assert runs.figures("second")[fid.name] == pytest.approx(fid.values[1], rel=1e-9)


def test_heun_counts_two_evaluations_a_step(monkeypatch, shell, trained):
    words = (f"checkpoint={trained}", "num=65", "metric=fid", "sampler=heun", "sampler.num_steps=3", *FEATURES)
    assert call(monkeypatch, *words, "hydra.run.dir=out") == 0
    assert receipt.read_receipt(Path("out")).run["network_evaluations"] == 5


@pytest.fixture(scope="module")
def receipts(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("receipts")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    words = (f"checkpoint={trained}", "metric=fid", *FEATURES)
    for name, more in {
        "one": ["num=70"],
        "same": ["num=70", "batch_size=16"],
        "more": ["num=80"],
        "steps": ["num=70", "sampler.num_steps=2"],
        "raw": ["num=70", "weights=raw"],
    }.items():
        assert call(patch, *words, "sampler.num_steps=3", *more, f"hydra.run.dir={name}") == 0
    patch.undo()
    return folder


def test_receipts_measured_alike_are_put_side_by_side(monkeypatch, receipts, capsys):
    monkeypatch.chdir(receipts)
    assert call(monkeypatch, "compare", "one", "same/receipt.json") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["receipt", "FID", "classifier"]
    assert first.split()[0] == "one"
    assert second.split()[0] == "same"
    assert first.split()[1] == second.split()[1]


@pytest.mark.parametrize(
    ("other", "key", "words"),
    [("more", "num is 70 in one and 80 in more", "num"), ("steps", "sampler.num_steps is 3", "sampler"), ("raw", "weights.which is ema", "weights")],
)  # fmt: skip
def test_unlike_protocols_are_not_compared_unless_allowed(monkeypatch, receipts, capsys, other, key, words):
    monkeypatch.chdir(receipts)
    assert call(monkeypatch, "compare", "one", other) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: compare: not measured alike: ")
    assert key in line
    assert f"--allow={words}" in line
    assert call(monkeypatch, "compare", "one", other, f"--allow={words}") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("not measured alike: ")
    assert call(monkeypatch, "compare", "one", other, "--allow=precision") == 2


def test_a_receipt_that_was_edited_is_refused(monkeypatch, receipts, tmp_path, capsys):
    text = (receipts / "one" / "receipt.json").read_text()
    content = json.loads(text)
    content["figures"][0]["values"][0] -= 1
    for name, changed, part in (
        ("edited", json.dumps(content), "was edited after it was written"),
        ("other", '{"a": 1}', "not a receipt, need format"),
        ("half", text[: len(text) // 2], "not a receipt, it is no JSON"),
    ):
        (tmp_path / name).write_text(changed)
        assert call(monkeypatch, "compare", str(receipts / "one"), str(tmp_path / name)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert part in line
    (tmp_path / "copy").write_text(json.dumps(json.loads(text), indent=None))
    assert call(monkeypatch, "compare", str(receipts / "one"), str(tmp_path / "copy")) == 0


def test_receipts_record_everything_that_figures_depend_on(receipts):
    found = receipt.read_receipt(receipts / "one")
    assert found.protocol["sampler"]["name"] == "DDIM"
    assert found.protocol["extractors"]["classifier"].startswith("classifier of 64 features")
    assert found.protocol["reference"]["num"] == 797
    assert len(found.protocol["reference"]["content"]) == 16
    assert found.run["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert len(found.identity["sha256"]) == 16
    assert found.run["command"].startswith("python evaluate.py checkpoint=")
    assert (found.run["state"], found.run["seed"], found.run["config"]["num"]) == ("finished", 1, 70)
    assert found.run["checkpoints"][0].items() <= found.identity.items()
    assert len(found.run["data"]) == 32


def test_receipts_of_guided_samples_compare_with_those_of_earlier_versions(tmp_path):
    guidance = ClassifierFree(weight=2.0, interval=[0.2, 0.8])
    before = {**json_content(guidance), "rule": {"name": "Linear", "weight": 2.0, "rescale": 0.0, "interval": [0.2, 0.8]}}
    found = []
    for name, settings in (("then", before), ("now", guidance)):
        (tmp_path / name).mkdir()
        receipt.write_receipt(receipt.Receipt((), {"guidance": settings}, {}, {}, {}), tmp_path / name)
        found.append(receipt.read_receipt(tmp_path / name).protocol)
    assert found[1]["guidance"] == {"name": "ClassifierFree", "weight": 2.0, "rescale": 0.0, "interval": [0.2, 0.8]}
    assert receipt.differences(found) == {}
