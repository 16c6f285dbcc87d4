import csv
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

import runs
from alphabar.runs.run_speed import CLOCKED

CRASH = "tests/crash.py"


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in CLOCKED} for row in csv.DictReader(file)]


def equal(one, other):
    """Whether two nests of containers, numbers and tensors are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.fixture(scope="module")
def brief():
    return runs.trained(*runs.BRIEF)


def test_what_an_objective_has_learned_is_taken_up_too(tmp_path):
    """Importance sampling remembers losses, the learned weighting has weights of its own, stratified times share an offset."""
    words = runs.words(
        *runs.BRIEF[1:], "trainer.max_steps=16", "method=v", "times=importance", "times.num_bins=20", "weighting=learned"
    )
    code, _, err = runs.run("train.py", *words, f"hydra.run.dir={tmp_path / 'straight'}", cwd=tmp_path)
    assert code == 0, err
    there = f"hydra.run.dir={tmp_path / 'killed'}"
    code, _, err = runs.run(CRASH, *words, there, cwd=tmp_path, env={"CRASH": f"{int(signal.SIGKILL)} 13 0"})
    assert code == -9, err
    code, _, err = runs.run("train.py", f"resume={tmp_path / 'killed'}", cwd=tmp_path)
    assert code == 0, err
    straight, resumed = (runs.checkpoint(tmp_path / name)["state_dict"] for name in ("straight", "killed"))
    assert straight["objective.times.counts"].sum() == 16 * 32
    assert straight["objective.weighting.linear.weight"].abs().max() > 0
    assert equal(dict(straight), dict(resumed))


@pytest.mark.parametrize(
    ("number", "code", "saved", "num_workers"),
    [(signal.SIGKILL, -9, 30, 0), (signal.SIGKILL, -9, 30, 2), (signal.SIGINT, 130, 34, 0), (signal.SIGTERM, 143, 34, 0)],
    ids=["kill -9", "kill -9, 2 workers", "Ctrl-C", "SIGTERM"],
)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, number, code, saved, num_workers):
    """40 steps, and 40 steps with a signal at the 34th, in the middle of an epoch of 24; checkpoints every 10."""
    stopped_with = code
    is_first = number == signal.SIGKILL and num_workers == 0  # the one with samples and FID, too
    brief = () if is_first else runs.BRIEF[1:]
    overrides = ("trainer.max_steps=40", "network.dropout=0.1", f"data.num_workers={num_workers}", *brief)
    words, uncut = runs.words(*overrides), runs.trained(*overrides)
    there = f"hydra.run.dir={tmp_path / 'killed'}"
    code, _, err = runs.run(CRASH, *words, there, cwd=tmp_path, env={"CRASH": f"{int(number)} 34 0"})
    assert code == stopped_with, err
    assert "Traceback" not in err
    assert runs.checkpoint(tmp_path / "killed")["global_step"] == saved
    code, _, err = runs.run("train.py", f"resume={tmp_path / 'killed'}", cwd=tmp_path)
    assert code == 0, err
    straight, resumed = runs.checkpoint(uncut), runs.checkpoint(tmp_path / "killed")
    assert straight["global_step"] == resumed["global_step"] == 40
    for key in ("state_dict", "ema", "optimizer_states", "lr_schedulers"):
        assert equal(straight[key], resumed[key]), key
    assert rows(uncut) == rows(tmp_path / "killed")
    assert [row["step"] for row in rows(uncut)] == ["0", "7", "14", "20", "21", "28", "35", "40"]


def test_going_on_takes_new_limits_and_refuses_what_would_be_another_run(command, brief, tmp_path):
    shutil.copytree(brief, tmp_path / "run")
    code, _, err = command("train", "resume=run", "schedule.beta_end=0.03")
    assert code == 2
    assert err.startswith("error: schedule.beta_end: cannot change when a run is resumed")
    assert err.count("\n") == 1
    code, _, err = command("train", "resume=run", "trainer.max_steps=4")
    assert code == 0, err
    assert runs.checkpoint("run")["global_step"] == 4
    assert "max_steps: 4" in (tmp_path / "run" / "config.yaml").read_text()
    assert "max_steps: 2" in (tmp_path / "run" / "config_until_step_2.yaml").read_text()


def test_a_run_of_another_version_is_refused_in_one_line(command, tmp_path):
    """As it was written when samplers had `clip` in the place of `thresholding`."""
    shutil.copytree(runs.trained("trainer.max_steps=2"), tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    saved = OmegaConf.load(file)
    for sampler in (saved.sampler, saved.callbacks.samples.sampler, saved.callbacks.film.sampler):
        sampler.clip = True
        del sampler["thresholding"]
    OmegaConf.save(saved, file)
    code, _, err = command("train", "resume=run", "trainer.max_steps=4")
    assert code == 2
    assert err == (
        "error: resume=run: its config.yaml does not fit this version of alphabar: "
        "sampler: DDIM has no argument 'clip'. It takes: num_steps, timesteps, thresholding, eta (and 2 more); "
        "go on with the version that wrote it, or start a new run\n"
    )


def test_two_processes_stop_and_go_on_with_the_same_figures(tmp_path):
    words = runs.words(*runs.BRIEF[1:], "trainer.max_steps=14", "trainer.accelerator=cpu", "trainer.devices=2")
    code, _, err = runs.run("train.py", *words, f"hydra.run.dir={tmp_path / 'straight'}", cwd=tmp_path)
    assert code == 0, err
    there = f"hydra.run.dir={tmp_path / 'killed'}"
    code, _, err = runs.run(CRASH, *words, there, cwd=tmp_path, env={"CRASH": "9 12 0"})
    assert code == -signal.SIGKILL
    code, _, err = runs.run("train.py", f"resume={tmp_path / 'killed'}", "trainer.devices=2", cwd=tmp_path)
    assert code == 0, err
    assert equal(runs.checkpoint(tmp_path / "straight")["state_dict"], runs.checkpoint(tmp_path / "killed")["state_dict"])
    for one, other in zip(rows(tmp_path / "straight"), rows(tmp_path / "killed"), strict=True):
        assert {name: float(value) for name, value in one.items() if value} == pytest.approx(
            {name: float(value) for name, value in other.items() if value}, rel=1e-5
        )


def test_a_run_is_not_taken_up_twice_at_once(command, brief, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(brief, folder)
    before = (folder / "metrics.csv").read_bytes()
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from pathlib import Path; from alphabar.runs.folders.run_dir import lock; lock(Path({str(folder)!r})); print(1, flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=runs.ROOT / "src",
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"1\n"
        code, _, err = command("train", "resume=run", "trainer.max_steps=3")
    finally:
        holder.communicate(b"\n")
    assert code == 2
    assert "another process is training this run just now" in err
    assert (folder / "metrics.csv").read_bytes() == before


def swapped(folder, own, other, moved="run"):
    """A copy of the run `own` with the last checkpoint of another."""
    shutil.copytree(own, folder / moved)
    shutil.copy(other / "checkpoints" / "last.ckpt", folder / moved / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("seed=1",), "which had data.seed=1; the one in this folder has data.seed=0"),
        (("method=v",), "which had schedule._target_=alphabar.diffusion.schedules.from_alpha_bar.CosineSchedule; the one"),
        (("network.dropout=0.1",), "which had network.dropout=0.1; the one in this folder has network.dropout=0.0"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(command, brief, tmp_path, words, reason):
    swapped(tmp_path, brief, runs.trained(*runs.BRIEF, *words))
    code, _, err = command("train", "resume=run", "trainer.max_steps=3")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: run/checkpoints/last.ckpt: is of another run, ")
    assert reason in err


def test_weights_of_another_network_are_one_line(command, brief, tmp_path):
    shutil.copytree(brief, tmp_path / "run")
    content = runs.checkpoint(brief)
    state = content["state_dict"]
    names = [name for name in state if name.endswith("weight")]
    del state[names[0]], state[names[1]]
    state["denoiser.more"] = torch.zeros(2)
    state[names[2]] = torch.zeros(3)
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    line = (
        f"last.ckpt: its weights are of another network, of whose {len(runs.checkpoint(brief)['state_dict'])} weights "
        f"2 missing ({names[0]}, ...), 1 not of it (denoiser.more), 1 of another shape ({names[2]}): [3], need "
    )
    for words in (("train", "resume=run", "trainer.max_steps=3"), ("sample", "checkpoint=run", "num=1", "weights=raw")):
        code, _, err = command(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert line in err


def test_a_run_that_was_moved_goes_on(command, brief, tmp_path):
    """Files that it names may have moved, too, of which its configuration is told by hand."""
    swapped(tmp_path, brief, brief, moved="elsewhere")
    file = tmp_path / "elsewhere" / "config.yaml"
    file.write_text(file.read_text().replace(f"cache_dir: {runs.CACHE}", f"cache_dir: {tmp_path}/cache"))
    assert command("train", "resume=elsewhere", "trainer.max_steps=3")[::2] == (0, "")
