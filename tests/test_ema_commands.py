"""Images and FIDs of averages: those that a run kept, those made of its snapshots, and those that are not there."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import runs
from alphabar.cli.command import execute
from alphabar.cli.composition.hydra_app import App
from alphabar.cli.summaries.sweep_summary import results_table
from alphabar.evaluation import receipt
from alphabar.plotting.sweep import draw_sweep
from alphabar.runs.ema import posthoc
from alphabar.runs.sweeps.sweep import Job, Sweep
from alphabar.sampling.image_grid import save_png


@pytest.fixture(scope="module")
def trained():
    """The folders of a run of 40 steps with snapshots every 4, and of one with two exponential averages."""
    common = (
        "trainer.max_steps=40",
        "callbacks.fid=null",
        "callbacks.film=null",
        "callbacks.curves=null",
        "callbacks.snapshots.every_n_steps=4",
    )
    several = ("ema.decay=0.9", "ema.more_decays=[0.5]")
    return {"power": runs.trained(*common, "ema=power"), "several": runs.trained(*common, *several)}


def command(script, *words):
    """(Exit code, what it complained of) of a command that is run in this process."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, words)])
        lines: list[str] = []
        patch.setattr("alphabar.cli.exit_status.print_outcome", lambda outcome: lines.extend(outcome.lines))
        return execute(importlib.import_module(script).main.__wrapped__, App(runs.ROOT / "conf", script)), lines


def test_a_run_of_the_command_line_has_its_snapshots(trained):
    assert runs.checkpoints(trained["power"] / "ema") == [f"step_{step:07d}.ckpt" for step in range(4, 41, 4)]
    assert not (trained["several"] / "ema").exists()


@pytest.mark.parametrize(
    ("run", "words", "chosen"),
    [
        (
            "power",
            ["ema_length=0.15"],
            lambda folder: posthoc.average_of_length(runs.checkpoint(folder), folder / "checkpoints" / "last.ckpt", 0.15),
        ),
        ("power", ["ema_length=0.1"], lambda folder: runs.checkpoint(folder)["ema"]["averages"][1]["weights"]),
        ("several", ["ema_decay=0.5"], lambda folder: runs.checkpoint(folder)["ema"]["averages"][1]["weights"]),
    ],
    ids=["length", "length that was kept", "decay"],
)
def test_images_are_those_of_the_average_that_was_asked_for(trained, tmp_path, run, words, chosen):
    saved = runs.checkpoint(trained[run])
    saved["ema"]["weights"] = chosen(trained[run])
    torch.save(saved, tmp_path / "replaced.ckpt")
    common = ("num=4", "sampler.num_steps=3", "film=0", "accelerator=cpu")
    given = {
        "asked": [f"checkpoint={trained[run]}/checkpoints/last.ckpt", *words],
        "made": [f"checkpoint={tmp_path}/replaced.ckpt"],
    }
    given["used"] = [f"checkpoint={trained[run]}/checkpoints/last.ckpt"]
    for name, which in given.items():
        code, err = command("sample", *common, *which, f"hydra.run.dir={tmp_path / name}")
        assert code == 0, err
    asked, made, used = (runs.pixels(tmp_path / name / "grid.png") for name in given)
    assert asked == made
    assert asked != used


def test_fid_over_the_length_is_a_sweep(trained, tmp_path):
    words = (
        "metric=fid",
        "statistics.fid.allow_few=true",
        "num=20",
        "batch_size=20",
        "sampler.num_steps=2",
        "features.max_images=200",
        f"features.cache_dir={runs.CACHE}",
    )
    checkpoint = trained["power"] / "checkpoints" / "last.ckpt"
    code, _, err = runs.run(
        "evaluate.py",
        "-m",
        f"checkpoint={checkpoint}",
        "ema_length=0.05,0.15",
        *words,
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path,
    )
    assert code == 0, err
    rows = runs.table(tmp_path / "sweep" / "results.csv")
    assert {(row["ema_length"], row["fid_name"]) for row in rows} == {
        (length, f"fid/n20-classifier-ema{length}-ddim2") for length in ("0.05", "0.15")
    }
    for row in rows:
        assert receipt.read_receipt(Path(row["folder"])).protocol["weights"]["which"] == f"ema{row['ema_length']}"
        assert float(row["fid"]) == pytest.approx(runs.figures(row["folder"])[row["fid_name"]])
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 5000


def test_a_sweep_over_lengths_is_one_protocol_and_needs_no_samples(tmp_path):
    def job(num, name):
        return Job(
            num, {"ema_length": str(num)}, tmp_path / str(num), "finished", result={"fid": {"name": name, "value": 2.0 + num}}
        )

    sweep = Sweep(tmp_path, [job(num, f"fid/n20-classifier-ema0.{num}-ddim2") for num in range(1, 5)])
    assert sweep.figure_names() == ["fid/n20-classifier-*-ddim2"]
    assert results_table(sweep).endswith("FID is fid/n20-classifier-*-ddim2")
    draw_sweep(sweep, tmp_path / "without.png")
    for one in sweep.jobs:
        one.folder.mkdir(exist_ok=True)
        save_png(torch.zeros(1, 8, 8, dtype=torch.uint8), one.folder / "samples" / "step_1.png")
    draw_sweep(sweep, tmp_path / "with.png")
    with Image.open(tmp_path / "without.png") as without, Image.open(tmp_path / "with.png") as tiled:
        assert without.height == 440  # of the plot alone
        assert tiled.height > 500
    sweep.jobs = sweep.jobs[:3]
    assert len(sweep.figure_names()) == 3
    sweep.jobs = [*sweep.jobs, job(4, "fid/n20-toy")]
    assert len(sweep.figure_names()) == 4


@pytest.mark.parametrize(
    ("run", "words", "complaint"),
    [
        (
            "power",
            ["ema_length=0.1", "weights=raw"],
            "ema_length=0.1: need weights=ema, got weights=raw, which are not averaged",
        ),
        ("power", ["ema_length=0.1", "ema_decay=0.9"], "inference: need ema_length or ema_decay, got ema_length=0.1 ema_decay=0.9"),
        ("power", ["ema_length=0.5"], "inference: need 0 < ema_length <= 0.28868, that of the plain mean, got ema_length=0.5"),
        ("power", ["ema_length=0"], "inference: need 0 < ema_length <= 0.28868, that of the plain mean, got ema_length=0"),
        ("power", ["ema_length=long"], "ema_length: expected float or null, got 'long'"),
        (
            "power",
            ["ema_length=0.001"],
            "ema_length=0.001: need a length within reach of the 20 averages that the run kept up to step 40: 0.0",
        ),
        (
            "power",
            ["ema_decay=0.9"],
            "ema_decay=0.9: the checkpoint has no exponential average; train with 'ema.more_decays=[0.9]'",
        ),
        (
            "several",
            ["ema_decay=0.7"],
            "ema_decay=0.7: the checkpoint has the exponential averages with 0.9, 0.5; train with 'ema.more_decays=[0.7]'",
        ),
        (
            "several",
            ["ema_length=0.1"],
            "ema_length=0.1: the checkpoint has no power-function averages to make it from; train with ema=power",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_average_that_is_not_there_is_one_line(trained, tmp_path, run, words, complaint):
    code, lines = command("sample", f"checkpoint={trained[run]}/checkpoints/last.ckpt", *words, f"hydra.run.dir={tmp_path / 'out'}")
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(complaint)
    assert not (tmp_path / "out").exists()


def test_snapshots_that_cannot_be_used_are_one_line(trained, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes((trained["power"] / "checkpoints" / "last.ckpt").read_bytes())
    words = (f"checkpoint={checkpoint}", "ema_length=0.15", f"hydra.run.dir={tmp_path / 'out'}")
    (line,) = command("sample", *words)[1]
    assert line == f"ema_length=0.15: there are no snapshots before step 40 in {tmp_path / 'ema'} to make it from"
    (tmp_path / "ema").mkdir()
    path = posthoc.snapshot_path(tmp_path, 20)
    path.write_bytes(b"half a file")
    (line,) = command("sample", *words)[1]
    assert line.startswith(f"ema_length=0.15: {path}: cannot be read")
    torch.save({"ema": {"num_updates": 20, "averages": [{"sigma_rel": 0.05, "weights": {"other": torch.zeros(1)}}]}}, path)
    (line,) = command("sample", *words)[1]
    assert line == f"ema_length=0.15: the averages in {tmp_path / 'ema'} are of another network"
    torch.save({"nothing": 1}, path)
    (line,) = command("sample", *words)[1]
    assert line == f"ema_length=0.15: {path}: not a snapshot of averages"
