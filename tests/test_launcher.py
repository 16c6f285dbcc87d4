"""Sweeps as they run: a process for every job, what becomes of those that fail, and how all of them are stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from alphabar.cli.composition.overrides import quoted
from runs import ROOT, table

CONF = """
defaults:
  - _self_
  - override hydra/launcher: process
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
x: 1
y: a
act: work
run_dir: null
resume: null
trust: []
hydra:
  output_subdir: null
  callbacks: {empty_folders: {_target_: alphabar.cli.empty_folders.RemoveEmptyFolders}}
  run: {dir: "${run_dir:outputs,train,null}"}
  sweep: {dir: sweep, subdir: "${hydra.job.num}"}
"""
SCRIPT = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from alphabar.cli.summaries import sweep_summary
from alphabar.errors import UserError
from alphabar.cli.command import command

sweep_summary.leave_report = lambda folder: None  # test_run_report.py has reports, which load torch
SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]

@command("train")
def main(cfg):
    folder = Path(cfg.run_dir)
    stdin = sys.stdin.read()
    seen = {"env": dict(os.environ), "pid": os.getpid(), "group": os.getpgid(0), "stdin": stdin, "x": cfg.x, "y": cfg.y, "cwd": os.getcwd(), "trust": list(cfg.trust)}
    (folder / "seen.json").write_text(json.dumps(seen))
    if cfg.act == "refuse":
        raise UserError("this is no good")
    if cfg.act == "bug" and "MENDED" not in os.environ:
        raise RuntimeError("a bug")
    if cfg.act == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.act == "quiet":
        os._exit(3)
    if cfg.act in ("orphan", "sleep") and "MENDED" not in os.environ:
        child = subprocess.Popen(SLEEP)
        (folder / "child").write_text(str(child.pid))
    if cfg.act == "sleep" and "MENDED" not in os.environ:
        (folder / "ready").touch()
        time.sleep(120)
    value = 10 / float(cfg.x)
    fid = {"name": "fid/n10-toy", "value": value, "floor": 1.0}
    return {"loss": 0.1, "fid": fid, "objective": value, "images_per_second": 5.0, "folder": str(folder)}

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def start(tmp_path):
    """Starts the toy command with some arguments, in a folder of its own."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text(CONF)
    (tmp_path / "train.py").write_text(SCRIPT)

    def run(*words, wait=True, **env):
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{tmp_path}"} | env
        process = subprocess.Popen(
            [sys.executable, "train.py", *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        if not wait:
            return process
        process.out, process.err = process.communicate(timeout=100)
        return process

    return run


def is_alive(pid):
    """Whether the process runs: one that is dead, but that nobody has asked about, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


def test_every_job_is_a_process_of_its_own_that_inherits_no_rank(start, tmp_path):
    foreign = {"LOCAL_RANK": "0", "NODE_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    foreign |= {"PL_GLOBAL_SEED": "3", "WANDB_RUN_ID": "x", "TORCHELASTIC_RUN_ID": "t", "KEPT": "yes"}
    sweep = start("-m", "x=1,2", **foreign)
    assert sweep.returncode == 0, sweep.err
    jobs = [json.loads((tmp_path / "sweep" / str(num) / "seen.json").read_text()) for num in (0, 1)]
    assert [job["x"] for job in jobs] == [1, 2]
    assert len({job["pid"] for job in jobs} | {sweep.pid}) == 3
    for job in jobs:
        assert job["group"] == job["pid"]
        assert job["stdin"] == ""
        assert set(foreign) & set(job["env"]) == {"KEPT"}
        assert job["env"]["ALPHABAR_SWEEP"] == "sweep"


def test_jobs_are_announced_and_the_table_is_sorted_by_fid(start, tmp_path):
    sweep = start("-m", "y=b", "x=1,4,2")
    lines = sweep.out.splitlines()
    assert [line for line in lines if line.startswith("[")] == ["[1/3] x=1", "[2/3] x=4", "[3/3] x=2"]
    rows = table(tmp_path / "sweep" / "results.csv")
    assert [(row["job"], row["x"], row["state"], row["fid"]) for row in rows] == [
        ("1", "4", "finished", "2.5"),
        ("2", "2", "finished", "5.0"),
        ("0", "1", "finished", "10.0"),
    ]
    assert rows[0]["y"] == "b"  # the same everywhere: in the file, but not on the terminal
    assert "y" not in sweep.out.split("[3/3]")[1].split("FID is")[0].splitlines()[1].split()
    assert rows[0]["fid_name"] == "fid/n10-toy"
    assert rows[0]["folder"] == str(tmp_path / "sweep" / "1")
    assert "  table    sweep/results.csv" in lines
    assert "  picture  sweep/sweep.png" in lines
    with Image.open(tmp_path / "sweep" / "sweep.png") as picture:
        assert picture.width > 500


def test_jobs_that_fail_are_recorded_and_the_others_go_on(start, tmp_path):
    sweep = start("-m", "act=refuse,bug,crash,quiet,work")
    assert sweep.returncode == 1
    last = sweep.err.splitlines()[-1]
    assert last.startswith("error: 4 of 5 jobs did not finish: 0, 1, 2, 3; see the column 'error' of sweep/results.csv")
    errors = {row["act"]: (row["state"], row["error"]) for row in table(tmp_path / "sweep" / "results.csv")}
    assert errors == {
        "work": ("finished", ""),
        "refuse": ("failed", "this is no good"),
        "bug": ("failed", "RuntimeError: a bug"),
        "crash": ("failed", "ended by SIGKILL"),
        "quiet": ("failed", "exit code 3, and no result"),
    }
    report = (tmp_path / "sweep" / "1" / "error.txt").read_text()
    assert "in main" in report
    assert "train.py act=bug" in report


def test_the_command_in_the_report_of_a_failure_repeats_it(start, tmp_path):
    start("-m", "act=refuse", 'y="it\'s, a=b \\"c\\""')
    folder = tmp_path / "sweep" / "0"
    command = (folder / "error.txt").read_text().splitlines()[2]
    seen = json.loads((folder / "seen.json").read_text())
    assert seen["y"] == 'it\'s, a=b "c"'
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    again = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert again.stderr == "error: this is no good\n"
    (again_seen,) = (tmp_path / "outputs" / "train").glob("*/seen.json")
    assert json.loads(again_seen.read_text())["y"] == seen["y"]


def seen_by(folder):
    seen = json.loads((folder / "seen.json").read_text())
    return seen["x"], seen["y"], Path(seen["cwd"]).name


def test_jobs_get_the_primary_config_the_search_path_and_hydra_s_other_options(start, tmp_path):
    """And so does whoever repeats one with the command in its error.txt."""
    for name in ("first", "second"):
        (tmp_path / name / "extra").mkdir(parents=True)
    (tmp_path / "first" / "mine.yaml").write_text("defaults: [train, _self_]\ny: mine")
    (tmp_path / "second" / "extra" / "large.yaml").write_text("# @package _global_\nx: 100")
    words = ("-cn", "mine", "--config-dir", "first", "hydra.searchpath=[file://second]", "+extra=large", "hydra.job.chdir=true")
    sweep = start("-m", *words, "act=work,refuse", "hydra.sweep.dir=out")
    assert sweep.returncode == 1, sweep.err
    assert [seen_by(tmp_path / "out" / num) for num in "01"] == [(100, "mine", "0"), (100, "mine", "1")]
    command = (tmp_path / "out" / "1" / "error.txt").read_text().splitlines()[2]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    (again,) = (tmp_path / "outputs" / "train").iterdir()
    assert seen_by(again) == (100, "mine", again.name)


def test_a_main_file_may_be_a_sweep_by_itself(start, tmp_path):
    (tmp_path / "conf" / "many.yaml").write_text(
        'defaults: [train, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {x: "1,2"}}}'
    )
    sweep = start("--config-name=many")
    assert sweep.returncode == 0, sweep.err
    assert [seen_by(tmp_path / "sweep" / num)[0] for num in "01"] == [1, 2]


def test_values_and_folders_may_have_anything_in_them(start, tmp_path):
    values = ["a b", "a=b,c", "it's", 'say "x"', "é漢"]
    folder = tmp_path / " ".join(values)
    sweep = start("-m", f"y={','.join(map(quoted, values))}", f"hydra.sweep.dir={quoted(str(folder))}")
    assert sweep.returncode == 0, sweep.err
    assert [json.loads((folder / num / "seen.json").read_text())["y"] for num in "01234"] == values
    assert {row["y"] for row in table(folder / "results.csv")} == set(map(quoted, values))


def test_what_a_job_started_does_not_outlive_it(start, tmp_path):
    sweep = start("-m", "act=orphan")
    assert sweep.returncode == 0
    assert not is_alive(int((tmp_path / "sweep" / "0" / "child").read_text()))


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda value: str(value)
)
def test_a_stopped_sweep_stops_its_job_and_starts_no_other(start, tmp_path, signum, code):
    sweep = start("-m", "act=sleep", "x=1,2", wait=False)
    wait_for((tmp_path / "sweep" / "0" / "ready").exists)
    sweep.send_signal(signum)
    out, _ = sweep.communicate(timeout=30)
    assert sweep.returncode == code
    job = json.loads((tmp_path / "sweep" / "0" / "seen.json").read_text())["pid"]
    assert not is_alive(job)
    assert not is_alive(int((tmp_path / "sweep" / "0" / "child").read_text()))
    assert not (tmp_path / "sweep" / "1").exists()
    assert [row["state"] for row in table(tmp_path / "sweep" / "results.csv")] == ["stopped", "not started"]
    assert "not started" in out


def test_jobs_get_values_as_they_are_written(start, tmp_path):
    sweep = start("-m", "y=1e3,2e3")
    assert "[1/2] y=1e3\n" in sweep.out, sweep.err
    assert {row["y"] for row in table(tmp_path / "sweep" / "results.csv")} == {"1e3", "2e3"}


def test_a_folder_for_all_jobs_is_refused(start, tmp_path):
    sweep = start("-m", "x=1,2", "hydra.sweep.subdir=same")
    assert sweep.returncode == 2
    assert sweep.err.startswith("error: hydra.sweep.subdir=same: the same folder for all jobs")
    assert not (tmp_path / "sweep").exists()
    assert start("-m", "x=1,2", "hydra.sweep.subdir=s_${hydra.job.override_dirname}").returncode == 0
    assert (tmp_path / "sweep" / "s_x=2" / "seen.json").exists()


def test_a_job_stays_in_the_folder_of_its_sweep(start, tmp_path):
    """What an interpolation leads to is tested, not how it is written."""
    (tmp_path / "victim" / "0").mkdir(parents=True)
    for word in ("y=../victim", f"y='{tmp_path}/victim'"):
        sweep = start("-m", "x=1,2", word, "hydra.sweep.subdir=${y}/${hydra.job.num}", f"hydra.sweep.dir={len(word)}")
        assert sweep.returncode == 2
        assert sweep.err.startswith("error: hydra.sweep.subdir: job 0 would be in ")
        assert sweep.err.endswith("victim/0, outside the folder of the sweep\n")
        assert not (tmp_path / str(len(word))).exists()
    assert [each.name for each in (tmp_path / "victim").rglob("*")] == ["0"]


def test_a_sweep_leaves_an_earlier_one_as_it_is(start, tmp_path):
    start("-m", "x=1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("sweep/**/*") if path.is_file()}
    second = start("-m", "x=3")
    assert second.returncode == 2
    assert "a sweep of another time is in this folder" in second.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("sweep/**/*") if path.is_file()} == before


SWEEPER = """
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Two(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments):
        first = self.launcher.launch([["x=1"], ["act=bug"]], initial_job_idx=0)
        second = self.launcher.launch([["x=4"]], initial_job_idx=2)
        print("values", first[0].return_value, second[0].return_value, first[1].status.name)
        try:
            first[1].return_value
        except Exception as error:
            print("raised", error)

ConfigStore.instance().store(group="hydra/sweeper", name="two", node={"_target_": "hydra_plugins.two.Two"})
"""


def test_a_sweeper_that_comes_back_gets_numbers_and_failures(start, tmp_path):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "two.py").write_text(SWEEPER)
    sweep = start("-m", "hydra/sweeper=two")
    assert "values 10.0 2.5 FAILED" in sweep.out, sweep.err
    assert "raised job 1 failed: RuntimeError: a bug" in sweep.out
    assert [row["job"] for row in table(tmp_path / "sweep" / "results.csv")] == ["2", "0", "1"]
    assert sweep.returncode == 1
