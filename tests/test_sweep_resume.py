"""Sweeps whose launcher dies: no job outlives it, and what is missing is run later."""

import json
import os
import signal

import pytest

import runs
from alphabar.errors import UserError
from alphabar.runs.sweeps.sweep_record import read_record
from hydra_plugins.alphabar_process_launcher import _finished_result, _job_result
from runs import table
from test_launcher import is_alive, start, wait_for  # noqa: F401
from test_resume import CRASH, equal
from test_resume_auto import FOURTEEN


def states(folder):
    return {row["act"]: row["state"] for row in table(folder / "results.csv")}


def test_jobs_die_with_their_launcher_and_the_sweep_goes_on(start, tmp_path):  # noqa: F811
    """A job that has finished, one that failed, and one that is under way while the launcher is killed."""
    folder = tmp_path / "sweep"
    sweep = start("-m", "act=work,bug,sleep", wait=False)
    assert wait_for((folder / "2" / "ready").exists)
    assert states(folder) == {"work": "finished", "bug": "failed", "sleep": "running"}
    for words in (("-m", "act=work"), ("sweep.resume=sweep",)):
        other = start(*words)
        assert (other.returncode, other.err) == (
            2,
            f"error: {folder}: another process is running a sweep in this folder just now\n",
        )
    pids = [json.loads((folder / "2" / "seen.json").read_text())["pid"], int((folder / "2" / "child").read_text())]
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.communicate(timeout=30)
    assert wait_for(lambda: not any(map(is_alive, pids)), seconds=10)
    first = (folder / "0" / "seen.json").read_bytes()
    again = start(f"sweep.resume={folder}", "trust=[mylab]", MENDED="yes")
    assert again.returncode == 0, again.err
    assert "[1/3] act=work: finished before\n[2/3] act=bug\n[3/3] act=sleep\n" in again.out
    assert set(states(folder).values()) == {"finished"}
    assert (folder / "0" / "seen.json").read_bytes() == first
    assert json.loads((folder / "1" / "seen.json").read_text())["trust"] == ["mylab"]
    assert "in main" in (folder / "1_earlier_attempt" / "error.txt").read_text()
    assert (folder / "2_earlier_attempt" / "ready").exists()
    assert not (folder / "1" / "error.txt").exists()
    assert not (folder / ".jobs").exists()


def test_a_sweep_is_queued_again_once_and_the_same_command_goes_on(start, tmp_path):  # noqa: F811
    """Also if Slurm sends its signal to the job as well as to the launcher."""
    folder = tmp_path / "sweep"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    (tmp_path / "scontrol").chmod(0o755)
    env = {"SLURM_JOB_ID": "71", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    words = ("-m", "act=sleep", "x=1,2", "resume=auto", "hydra.sweep.dir=sweep")
    sweep = start(*words, wait=False, **env)
    assert wait_for((folder / "0" / "ready").exists)
    sweep.send_signal(signal.SIGUSR1)
    os.kill(json.loads((folder / "0" / "seen.json").read_text())["pid"], signal.SIGUSR1)
    out, err = sweep.communicate(timeout=30)
    assert sweep.returncode == 128 + signal.SIGUSR1, err
    assert out.endswith("job 71 of Slurm is queued again, and goes on\n")
    assert (tmp_path / "calls").read_text() == "requeue 71\n"
    assert [row["state"] for row in table(folder / "results.csv")] == ["stopped", "not started"]
    again = start(*words, MENDED="yes", **env)
    assert again.returncode == 0, again.err
    assert [row["state"] for row in table(folder / "results.csv")] == ["finished", "finished"]
    assert (folder / "0_earlier_attempt" / "ready").exists()
    other = start(*words[:2], "x=1,3", *words[3:])
    assert other.err.startswith("error: hydra.sweep.dir=")


def test_table_and_results_are_made_from_what_is_on_the_disk(start, tmp_path):  # noqa: F811
    """A job that had finished when its launcher was gone already is not run again."""
    folder = tmp_path / "sweep"
    assert start("-m", "x=1,4").returncode == 0
    before = (folder / "results.csv").read_bytes()
    record = json.loads((folder / "sweep.json").read_text())
    notes = folder / ".jobs" / "1"
    notes.mkdir(parents=True)
    (notes / "result.json").write_text(json.dumps({"state": "finished", **record["jobs"][1]["result"]}))
    record["jobs"][1] |= {"state": "running", "result": {}}
    (folder / "sweep.json").write_text(json.dumps(record))
    (folder / "results.csv").unlink()
    (folder / "sweep.png").unlink()
    again = start("-m", "sweep.resume=sweep")
    assert again.returncode == 0, again.err
    assert (folder / "results.csv").read_bytes() == before
    assert (folder / "sweep.png").exists()
    assert not list(folder.glob("*_earlier_attempt"))
    record["jobs"][1] |= {"state": "stopped"}
    (folder / "sweep.json").write_text(json.dumps(record))
    (folder / ".jobs").symlink_to(".")  # what is in .jobs/1 is deleted
    refused = start("-m", "sweep.resume=sweep")
    assert refused.returncode == 2
    assert refused.err.startswith("error: sweep: .jobs is a link; nothing is written here before it is removed\n")
    assert (folder / "1" / "seen.json").exists()


def test_a_sweep_of_ones_own_goes_on_without_its_words_and_that_of_others_does_not(start, tmp_path):  # noqa: F811
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "large.yaml").write_text("# @package _global_\ny: large\n")
    assert start("-m", "--config-dir=mine", "+experiment=large", "act=work").returncode == 0
    again = start("sweep.resume=sweep")
    assert "[1/1] +experiment=large act=work: finished before" in again.out, again.err
    assert json.loads((tmp_path / "sweep" / "0" / "seen.json").read_text())["y"] == "large"
    others = {"ALPHABAR_CONFIG_HOME": str(tmp_path / "others")}
    refused = start("sweep.resume=sweep", **others)
    assert (refused.returncode, "go on with sweep.resume=sweep --config-dir=mine\n" in refused.err) == (2, True), refused.err
    assert "finished before" in start("sweep.resume=sweep", "--config-dir=mine", **others).out
    assert "finished before" in start("sweep.resume=sweep", **others).out


RESULT = {"state": "finished", "objective": 0.5, "fid": {"name": "fid/n10", "value": 0.5}}


@pytest.mark.parametrize(
    "text",
    [
        "{bad",
        "[1]",
        "3",
        "[" * 100_000,
        "\udcff",
        *(json.dumps({**RESULT, **change}) for change in ({"objective": "abc"}, {"state": []}, {"error": 3}, {"fid": "low"})),
    ],
    ids=lambda text: text[:40].encode("utf-8", "replace").decode(),
)
def test_what_no_job_can_have_written_is_no_result(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    assert _finished_result(tmp_path) == _job_result(path, tmp_path / "errors", 0) == RESULT
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert _finished_result(tmp_path) is None
    assert _job_result(path, tmp_path / "errors", -40) == {"state": "failed", "error": "ended by signal 40"}


def test_a_job_with_a_checkpoint_goes_on_from_it(tmp_path):
    words = runs.words(*FOURTEEN)
    code, out, err = runs.run(CRASH, "-m", *words, "hydra.sweep.dir=sweep", cwd=tmp_path, env={"CRASH": "9 12 0"})
    assert code == 1, err
    assert "  go on    python " in out
    assert table(tmp_path / "sweep" / "results.csv")[0]["error"] == "ended by SIGKILL"
    again = [word for word in words if word.startswith("features.cache_dir=/")]  # where files are written is said once more
    code, out, err = runs.run(CRASH, "-m", "sweep.resume=sweep", *again, cwd=tmp_path, env={"CRASH": "9 99 0"})
    assert code == 0, err
    uncut = runs.trained(*FOURTEEN)
    assert equal(runs.checkpoint(uncut)["state_dict"], runs.checkpoint(tmp_path / "sweep" / "0")["state_dict"])


@pytest.fixture
def finished(command, tmp_path):
    """The folder of a sweep, as `python sample.py` left it, beside which a command is run."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("record", "words", "message"),
    [
        (None, ("sweep.resume=nowhere",), "sweep.resume={cwd}/nowhere: there is no such folder"),
        (None, ("sweep.resume=sweep",), "sweep.resume={cwd}/sweep: not the folder of a sweep that can go on, it has no sweep.json"),
        ("{", ("sweep.resume=sweep",), "sweep.resume={cwd}/sweep: sweep.json cannot be read (JSONDecodeError)"),
        ("[]", ("sweep.resume=sweep",), "sweep.resume={cwd}/sweep: sweep.json cannot be read (TypeError)"),
        (None, ("-m", "sweep.resume=sweep", "seed=1"), "seed=1: a sweep goes on as it was begun; sweep.resume=FOLDER stands alone"),
        (None, ("sweep.resume=",), "sweep.resume=: need the folder of a sweep, sweep.resume=FOLDER"),
        ("sample.py", ("sweep.resume=sweep",), "sweep.resume=sweep: was begun by sample.py in {cwd}; go on there: cd {cwd} && "),
        ("/elsewhere", ("sweep.resume=sweep",), "sweep.resume=sweep: was begun by train.py in /elsewhere; go on there: cd "),
    ],
)
def test_a_sweep_that_cannot_go_on_is_one_line(command, finished, tmp_path, record, words, message):
    if record is not None:
        script, folder = ("train.py", record) if record.startswith("/") else (record, str(tmp_path))
        content = {"command": {"script": script, "arguments": [], "working_directory": folder}, "jobs": []}
        (finished / "sweep.json").write_text(record if record in ("{", "[]") else json.dumps(content))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = command("train", *words)
    assert code == 2
    assert err.startswith(f"error: {message.format(cwd=tmp_path)}")
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"result": {"fid": 3}},
        {"result": {"fid": {"value": 1.0, "name": ["fid"]}}},
        {"result": {"bpd": {"protocol": 7}}},
        {"result": {"objective": "low"}},
        {"num": -5},
        {"seconds": None},
    ],
    ids=str,
)
def test_a_job_of_another_kind_in_a_record_is_one_line(tmp_path, change):
    job = {"num": 0, "overrides": {"seed": "1"}, "folder": "0", "result": {"fid": {"value": 1.0, "name": "fid/n8"}, "bpd": None}}
    content = {"command": {"script": "train.py", "arguments": [], "working_directory": "/"}, "jobs": [job]}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    assert [each.figure for each in read_record(tmp_path).jobs] == [1.0]
    for jobs in ([{**job, **change}], [job, job]):
        (tmp_path / "sweep.json").write_text(json.dumps({**content, "jobs": jobs}))
        with pytest.raises(UserError, match=r"^[^\n]*: sweep.json cannot be read \((Type|Value)Error\)$"):
            read_record(tmp_path)
