import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import runs
from alphabar.runs.run_speed import CLOCKED


@pytest.fixture(scope="module")
def finished():
    """(Folder of a finished run with wandb offline, its standard output, its standard error)."""

    def make(cwd):
        words = runs.words("trainer.max_steps=40", folder=cwd / "out", logger="wandb")
        process = runs.start_cold("train.py", *words, cwd=cwd, env={"ALPHABAR_RESULT": str(cwd / "result.json")})
        code, out, err = runs.finish(process)
        assert code == 0, err
        (cwd / "printed.json").write_text(json.dumps([out, err]))

    cwd = runs.shared("finished", make)
    return cwd / "out", *json.loads((cwd / "printed.json").read_text())


def metrics(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_that_it_promises(finished):
    folder, out, err = finished
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "wandb/" not in str(path)} - {
        "code.diff"
    }
    assert names == {
        ".owner", "checkpoints/best.ckpt", "checkpoints/last-1.ckpt", "checkpoints/last.ckpt", "config.yaml", "curves.png", "film.gif", "film.png", "memorisation.png", "metrics.csv", "receipt.json",
        "samples/step_0000000.png", "samples/step_0000020.png", "samples/step_0000040.png", "wandb_id.txt",
    }  # fmt: skip
    assert "sample.py checkpoint=out/checkpoints/last.ckpt" in out
    assert "Traceback" not in err
    assert "warning" not in err.lower()


def test_the_configuration_is_written_down_resolved(finished):
    config = yaml.safe_load((finished[0] / "config.yaml").read_text())
    assert "${" not in (finished[0] / "config.yaml").read_text()
    assert config["shape"] == {"channels": 1, "resolution": 8}
    assert config["module"]["denoiser"]["network"]["channels"] == 1
    assert config["seed"] == 0


def test_figures_have_their_columns(finished):
    rows = metrics(finished[0])
    assert [row["step"] for row in rows] == ["0", "7", "14", "20", "21", "28", "35", "40"]
    last = rows[-1]
    for name in ("train/loss", "train/loss_level_0.00_0.25", "train/loss_level_0.75_1.00", "train/grad_norm", "train/lr"):
        assert float(last[name]) > 0
    assert all(float(last[name]) > 0 for name in CLOCKED)
    assert float(last["train/evaluating"]) < 1
    assert float(last["fid/n64-classifier-ema-ddim3"]) > float(rows[0]["fid/floor-n64-classifier"]) > 0
    assert float(last["samples/num_nonfinite"]) == 0


def test_the_result_is_handed_over(finished):
    folder = finished[0]
    result = json.loads((folder.parent / "result.json").read_text())
    assert result["state"] == "finished"
    assert result["steps"] == 40
    assert result["fid"]["name"] == "fid/n64-classifier-ema-ddim3"
    assert result["fid"]["value"] == pytest.approx(float(metrics(folder)[-1]["fid/n64-classifier-ema-ddim3"]), rel=1e-6)


def test_checkpoints_are_plain_and_hold_averages_beside_live_weights(finished):
    saved = runs.checkpoint(finished[0])  # by torch.load(weights_only=True)
    assert saved["global_step"] == 40
    assert saved["config"]["schedule"]["num_steps"] == 1000
    assert not any("network" in name and not name.startswith("denoiser.network.") for name in saved["state_dict"])
    assert {name for name in saved["state_dict"] if "network" not in name} == {
        "denoiser.schedule.betas",
        "denoiser.schedule.alpha_bar",
    }
    assert saved["ema"]["weights"].keys() == {name for name in saved["state_dict"] if "network" in name}


def test_the_best_checkpoint_is_that_of_the_lowest_fid(finished):
    fids = {
        int(row["step"]): float(row["fid/n64-classifier-ema-ddim3"])
        for row in metrics(finished[0])
        if row["fid/n64-classifier-ema-ddim3"]
    }
    assert runs.checkpoint(finished[0], "best")["global_step"] == min(fids, key=fids.get)


def test_wandb_runs_offline_and_says_how_to_look_and_upload(finished):
    folder, out, _ = finished
    (fragment,) = (folder / "wandb").glob("offline-run-*")
    assert f"wandb leet out/wandb/{fragment.name}" in out
    assert f"wandb sync out/wandb/{fragment.name}" in out
    wandb = Path(sys.executable).with_name("wandb")
    (file,) = fragment.glob("run-*.wandb")
    shown = subprocess.run([wandb, "leet", "inspect", "--summary", "--json", file], capture_output=True, text=True, check=True)
    for name in (
        "train/loss",
        "train/loss_level_0.00_0.25",
        "train/grad_norm",
        "train/lr",
        *CLOCKED,
        "fid/n64-classifier-ema-ddim3",
        "samples",
    ):
        assert name in shown.stdout, name
    pictures = list((fragment / "files" / "media" / "images").rglob("samples_*.png"))
    first = min(pictures, key=lambda path: int(path.name.split("_")[1]))
    with Image.open(first) as logged, Image.open(folder / "samples" / "step_0000000.png") as written:
        assert logged.convert("RGB").tobytes() == written.convert("RGB").tobytes()
    assert list((fragment / "files" / "media").rglob("*.gif"))


def test_one_and_two_processes_draw_the_same_images_and_measure_the_same_fid(finished, tmp_path):
    checkpoint = f"checkpoint={finished[0] / 'checkpoints' / 'last.ckpt'}"
    common = (checkpoint, "sampler.num_steps=3", "accelerator=cpu", "num=13")
    for devices in (1, 2):
        words = (*common, "batch_size=4", f"devices={devices}")
        code, _, err = runs.run("sample.py", *words, f"hydra.run.dir={tmp_path / f's{devices}'}", cwd=tmp_path)
        assert code == 0, err
        words = (
            *words,
            "metric=fid",
            "statistics.fid.allow_few=true",
            f"features.cache_dir={runs.CACHE}",
            "features.max_images=200",
        )
        code, _, err = runs.run("evaluate.py", *words, f"hydra.run.dir={tmp_path / f'e{devices}'}", cwd=tmp_path)
        assert code == 0, err
    one, two = (sorted((tmp_path / f"s{devices}").rglob("*.[pg][ni][gf]")) for devices in (1, 2))
    assert [path.name for path in one] == [path.name for path in two]
    assert sum(path.name.startswith("0000") for path in one) == 13
    assert all(runs.pixels(a) == runs.pixels(b) for a, b in zip(one, two, strict=True))
    one, two = (runs.figures(tmp_path / f"e{devices}") for devices in (1, 2))
    assert one == pytest.approx(two, rel=1e-6)
    assert one["fid/n13-classifier-ema-ddim3"] > 0


def test_samples_as_one_array(finished, tmp_path):
    words = (
        f"checkpoint={finished[0] / 'checkpoints' / 'best.ckpt'}",
        "num=5",
        "format=npz",
        "sampler=ddpm",
        "sampler.num_steps=4",
        "weights=raw",
    )
    code, _, err = runs.run("sample.py", *words, f"hydra.run.dir={tmp_path / 's'}", cwd=tmp_path)
    assert code == 0, err
    images = np.load(tmp_path / "s" / "images.npz")["images"]
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.uint8
    with Image.open(tmp_path / "s" / "film.gif") as film:
        assert film.n_frames == 5


def test_two_processes_train_together(finished, tmp_path):
    """Other times and noise on each, the same weights and figures, nothing written twice, the grid of one; two new interpreters."""
    words = runs.words("trainer.max_steps=20", "trainer.accelerator=cpu", "trainer.devices=2", folder=tmp_path / "out")
    code, _, err = runs.finish(runs.start_cold("tests/crash.py", *words, cwd=tmp_path, env={"CRASH": "note 8 all"}))
    assert code == 0, err
    first, second = (json.loads((tmp_path / f"note_{rank}.json").read_text()) for rank in (0, 1))
    assert first["levels"] != second["levels"]
    assert first["labels"] != second["labels"]
    assert first["weights"] == second["weights"]
    assert first["figures"] == second["figures"]
    assert {*CLOCKED} <= first["figures"].keys()
    rows = metrics(tmp_path / "out")
    assert [row["step"] for row in rows] == ["0", "7", "14", "20"]
    assert float(rows[-1]["fid/n64-classifier-ema-ddim3"]) > 0
    grids = [folder / "samples" / "step_0000000.png" for folder in (finished[0], tmp_path / "out")]
    assert runs.pixels(grids[0]) == runs.pixels(grids[1])
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir()) == ["best.ckpt", "last-1.ckpt", "last.ckpt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note_0.json", "note_1.json", "out"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_brings_the_run_down(tmp_path, rank):
    words = runs.words("trainer.max_steps=1000000", "trainer.accelerator=cpu", "trainer.devices=2", folder=tmp_path / "out")
    code, _, err = runs.run("tests/crash.py", *words, cwd=tmp_path, env={"CRASH": f"raise 5 {rank}"}, seconds=100)
    assert code != 0
    assert "as planned" in err
