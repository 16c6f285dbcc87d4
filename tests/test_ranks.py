"""Several processes of a run of which one dies, fails or stands still: the others end, and one line says why."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

import runs
from alphabar.cli.console import print_exception
from alphabar.cli.exit_status import outcome_of
from alphabar.data.loading.loader import _BatchDataset
from alphabar.errors import WorkerError
from alphabar.runs.folders.run_dir import RANKS
from alphabar.runs.processes import ranks
from alphabar.runs.processes.failures import FOLDER, remove_error_folder, set_error_folder
from alphabar.runs.processes.ranks import FailedRank, meeting
from test_launcher import is_alive, wait_for
from test_resume import CRASH
from test_resume_auto import FOURTEEN

TWO = ("trainer.accelerator=cpu", "trainer.devices=2")
STARTS = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train
from alphabar.training.callbacks.composition import Composition
from lightning.pytorch.strategies import DDPStrategy

when, who = os.environ["DIES"].split()
rank = os.environ.get("LOCAL_RANK", "0")

def die():
    open(f"pid_{{rank}}", "w").write(str(os.getpid()))
    if os.environ.get("LOCAL_RANK", "0") == who:
        os.kill(os.getpid(), signal.SIGKILL)

def before(cls, name):
    original = getattr(cls, name)
    def replacement(self, *arguments):
        die()
        return original(self, *arguments)
    setattr(cls, name, replacement)

before(*{{"setup": (DDPStrategy, "setup_environment"), "fit": (Composition, "on_fit_start")}}[when])
train.main()
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="the second rank is found by its parent")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("when", ["setup", "fit"])
def test_a_rank_that_is_killed_in_start_up_brings_the_others_down(tmp_path, when, rank):
    """Before the processes have met, and after."""
    (tmp_path / "dies.py").write_text(STARTS.format(root=str(runs.ROOT)))
    process = runs.start(str(tmp_path / "dies.py"), *runs.words(*FOURTEEN, *TWO), cwd=tmp_path, env={"DIES": f"{when} {rank}"})
    code, _, err = runs.finish(process, seconds=60)
    pids = [int(path.read_text()) for path in tmp_path.glob("pid_*")]
    assert wait_for(lambda: not any(map(is_alive, pids)), seconds=10)
    if rank == 0:
        assert (code, err) == (-signal.SIGKILL, "")
    else:
        assert (code, err) == (1, "error: rank 1 was killed by SIGKILL\n")


@pytest.mark.parametrize(
    ("what", "code", "said"), [("refuse", 2, "error: data: as planned\n"), ("9", 1, "error: rank 1 was killed by SIGKILL\n")]
)
def test_the_rank_that_failed_says_why_and_the_other_is_silent(tmp_path, what, code, said):
    """In the middle of training, where the first process waits in a collective operation."""
    (tmp_path / "tmp").mkdir()
    env = {"CRASH": f"{what} 5 1", "TMPDIR": str(tmp_path / "tmp")}
    found, _, err = runs.run(CRASH, *runs.words(*FOURTEEN, *TWO), cwd=tmp_path, env=env)
    assert (found, err) == (code, said)
    assert not list((tmp_path / "tmp").iterdir())


def test_a_rank_that_stands_still_is_named(tmp_path):
    words = runs.words(*FOURTEEN, *TWO, "stall_seconds=1", folder="run")
    (tmp_path / "tmp").mkdir()
    code, _, err = runs.run(CRASH, *words, cwd=tmp_path, env={"CRASH": "sleep 5 1", "TMPDIR": str(tmp_path / "tmp")})
    where = "where: run/stalled_rank_1.txt; stall_seconds=null waits for ever"
    assert (code, err) == (1, f"error: rank 1 has stood still for 1 s in a training step; {where}\n")
    assert "crash.py" in (tmp_path / "run" / "stalled_rank_1.txt").read_text()
    assert not list((tmp_path / "tmp").iterdir())


def test_what_a_process_that_was_killed_left_is_deleted_by_the_next(monkeypatch, tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    names = [f"alphabar-{process.pid}-00000000", f"alphabar-{os.getpid()}-00000000", "alphabar-tests-0", "mine"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mark").touch()
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    set_error_folder()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    assert (tmp_path / "mine" / "mark").exists()
    folder = Path(os.environ[FOLDER])
    folder.mkdir()
    remove_error_folder()
    assert FOLDER not in os.environ
    assert not folder.exists()


@pytest.mark.parametrize(("seconds", "patience", "code"), [("0.2", 20.0, 0), ("20", 0.0, -signal.SIGKILL)])
def test_the_first_process_waits_until_the_others_know_what_was_told(monkeypatch, tmp_path, seconds, patience, code):
    """Or they would find nothing, and tell it again. One that does not end is killed."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(ranks, "PATIENCE", patience)
    monkeypatch.setattr(ranks, "_is_ending", threading.Event())
    with subprocess.Popen(["sleep", seconds]) as process:
        monkeypatch.setattr(ranks, "_ranks", [process])
        ranks.end_ranks()
        assert process.poll() is None  # nothing was told
        (tmp_path / "mark").touch()
        ranks.end_ranks()
        assert process.wait(20) == code


def test_a_signal_without_a_name_has_its_number():
    assert [str(FailedRank(1, -number)) for number in (9, 40)] == ["rank 1 was killed by SIGKILL", "rank 1 was killed by signal 40"]


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_limit_that_is_none_is_refused(command, tmp_path, value):
    code, _, err = command("train", *runs.words(*FOURTEEN, f"stall_seconds={value}", folder="run"))
    assert code == 2
    assert err.startswith("error: stall_seconds=")
    assert not (tmp_path / "run").exists()


def test_a_killed_process_that_decodes_is_one_line():
    """Torch raises the second error from the first, or either of them alone."""
    first = RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")
    second = RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly")
    second.__cause__ = first
    for error in (first, second):
        outcome = outcome_of(error)
        assert (outcome.code, outcome.is_bug) == (1, False)
        assert outcome.lines[0].startswith("data: a process that decodes images died (pid")
    assert outcome_of(RuntimeError("something else")).is_bug


@pytest.mark.parametrize(("variables", "is_bug"), [({}, True), ({"LOCAL_RANK": "1"}, False)])
def test_a_lost_connection_is_a_bug_only_where_nobody_can_have_ended_it(monkeypatch, tmp_path, variables, is_bug):
    monkeypatch.setattr("alphabar.runs.processes.ranks.PATIENCE", 0.0)
    monkeypatch.setenv("ALPHABAR_ERRORS", str(tmp_path / "errors"))
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lost = RuntimeError("[pair.cc:545] Read error [127.0.0.1]:43913: Connection reset by peer")
    assert outcome_of(lost).is_bug == is_bug
    if not is_bug:
        assert outcome_of(lost).lines == ("lost the connection to another process of the run",)
        (tmp_path / "errors").mkdir()
        (tmp_path / "errors" / "mark").touch()
        assert outcome_of(lost).lines == ()


def test_a_process_that_waits_for_others_in_vain_ends(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ALPHABAR_ERRORS", str(tmp_path))
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    with meeting(rank=3, seconds=0.01):
        assert ended.wait(20)
    assert capsys.readouterr().err == "error: rank 3 has waited 0.01 s for the other processes of the run to start\n"
    ended.clear()
    with meeting(rank=3, seconds=60):
        timers = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
    for timer in timers:
        timer.join(20)
    assert timers
    assert not any(timer.is_alive() for timer in timers)
    assert not ended.is_set()


class Broken:
    def batch(self, places):
        return {}["there is none"]


def test_a_bug_in_a_process_that_decodes_is_shown_once(capsys):
    """With its own traceback, and without that of the process that reads."""
    returned = _BatchDataset(Broken())[[np.array([0]), None, None]]
    error = pickle.loads(pickle.dumps(returned))
    assert isinstance(error, WorkerError)
    outcome = outcome_of(error)
    assert (outcome.code, outcome.is_bug) == (1, True)
    try:
        raise error
    except WorkerError:
        print_exception(*sys.exc_info())
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n")
    assert shown.endswith("KeyError: 'there is none'\n")
    assert shown.count("Traceback") == 1
    assert "test_a_bug" not in shown
