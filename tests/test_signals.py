"""Signals that ask a run to stop, and what a job of Slurm does then."""

import os
import signal
import time

import pytest

import runs
from alphabar.cli.composition.overrides import goes_on_if_repeated
from alphabar.runs.processes import slurm
from alphabar.training import run
from alphabar.training.callbacks.stopping import is_same
from test_launcher import wait_for
from test_resume import CRASH, equal
from test_resume_auto import FOURTEEN

JOB = {"JOB_ID": "71", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
SCONTROL = """#!/bin/sh
echo "$@" >> calls
kill -TERM $PPID  # as Slurm does with a job that it queues again
"""


def test_a_job_that_slurm_queues_again_ends_like_one_that_was_not(tmp_path):
    """SIGUSR1 at the 12th of 14 steps, scontrol, SIGTERM, and then the same command again."""
    words = [*runs.words(*FOURTEEN, logger="wandb"), "resume=auto", f"hydra.run.dir={tmp_path / 'run'}"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(SCONTROL)
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    env = {f"SLURM_{name}": value for name, value in JOB.items()}
    env |= {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "WANDB_MODE": "offline"}
    code, _, err = runs.run(CRASH, *words, cwd=tmp_path, env={**env, "CRASH": f"{int(signal.SIGUSR1)} 12 0"})
    assert code == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert (tmp_path / "calls").read_text() == "requeue 71\n"
    assert runs.checkpoint(tmp_path / "run")["global_step"] == 12
    wandb_id = (tmp_path / "run" / "wandb_id.txt").read_text()
    code, _, err = runs.run("train.py", *words, cwd=tmp_path, env=env)
    assert code == 0, err
    uncut, resumed = runs.checkpoint(runs.trained(*FOURTEEN)), runs.checkpoint(tmp_path / "run")
    for key in ("state_dict", "ema", "optimizer_states", "lr_schedulers"):
        assert equal(uncut[key], resumed[key]), key
    assert (tmp_path / "run" / "wandb_id.txt").read_text() == wandb_id
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    assert not list(tmp_path.rglob("earlier_attempt*"))


def test_a_second_signal_ends_a_process_that_does_not_answer(tmp_path):
    process = runs.start(CRASH, *runs.words(*FOURTEEN), cwd=tmp_path, env={"CRASH": "sleep 3 0"})
    assert wait_for((tmp_path / "asleep").exists)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)  # two at once would be one
    assert process.returncode is None
    process.send_signal(signal.SIGINT)
    code, _, err = runs.finish(process, seconds=20)
    assert code == 128 + signal.SIGINT
    assert err == "\nstopping after this step, with a checkpoint; once more stops at once\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_before_training_a_signal_ends_the_run_at_once(command, monkeypatch, number):
    build_callbacks = run.build_callbacks

    def build(*arguments):
        os.kill(os.getpid(), number)
        return build_callbacks(*arguments)

    monkeypatch.setattr(run, "build_callbacks", build)
    handlers = [signal.getsignal(each) for each in signal.valid_signals()]
    code, _, err = command("train", *runs.words(*FOURTEEN, folder="run"))
    assert code == 128 + number
    assert err == f"stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}\n"
    assert [signal.getsignal(each) for each in signal.valid_signals()] == handlers


@pytest.mark.parametrize(
    ("number", "goes_on", "scontrol", "said"),
    [
        (
            signal.SIGUSR1,
            False,
            "exit 0",
            "is not queued again: its command would not go on with this run, as it does with resume=auto",
        ),
        (signal.SIGUSR2, True, None, "cannot be queued again: there is no scontrol here"),
        (signal.SIGUSR2, True, "echo no such job >&2; exit 1", "cannot be queued again: no such job"),
        (signal.SIGUSR1, True, "exit 0", "is queued again, and goes on"),
        (signal.SIGTERM, True, "exit 0", None),
    ],
)
def test_what_becomes_of_the_job_is_one_line(monkeypatch, tmp_path, capsys, number, goes_on, scontrol, said):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("PATH", str(tmp_path))
    if scontrol is not None:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{scontrol}\n")
        (tmp_path / "scontrol").chmod(0o755)
    slurm.requeue_job(number, goes_on)
    assert capsys.readouterr().out == ("" if said is None else f"job 5_2 of Slurm {said}\n")


def test_the_id_of_a_job_of_an_array_takes_both_of_its_numbers(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert slurm.job_id() == "71"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert slurm.job_id() == "5_2"


def test_without_slurm_nothing_is_queued(monkeypatch, capsys):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    slurm.requeue_job(signal.SIGUSR1, goes_on=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("resume=auto",), "is queued again, and goes on"),
        ((), "is not queued again: its command would not go on with this run, as it does with resume=auto"),
    ],
)
def test_a_signal_before_the_run_listens_queues_the_job_again(monkeypatch, tmp_path, capsys, words, said):
    """As while torch is imported. What a launcher does for all of its jobs, none of them does."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nexit 0\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    words = [*runs.words(*words), f"hydra.run.dir={tmp_path / 'run'}"]
    handlers = [signal.getsignal(each) for each in signal.valid_signals()]
    for name, line in ((None, f"job 71 of Slurm {said}\n"), ("sweep", "")):
        if name is not None:
            monkeypatch.setenv("ALPHABAR_SWEEP", name)
        assert runs.say(monkeypatch, *words, main=lambda cfg: os.kill(os.getpid(), signal.SIGUSR1)) == 128 + signal.SIGUSR1
        assert capsys.readouterr() == (line, "stopped by SIGUSR1\n")
    assert [signal.getsignal(each) for each in signal.valid_signals()] == handlers


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        (("resume=auto", "name=mine"), True),
        (("+resume='auto'",), True),
        (("resume=null",), False),
        (("-m", "resume=auto", "seed=1,2"), False),
        (("-m", "resume=auto", "seed=1,2", "hydra.sweep.dir=outputs/sweeps/${now:%S}"), False),
        (("-m", "resume=auto", "seed=1,2", "hydra.sweep.dir=mine"), True),
        (("sweep.resume=mine",), True),
    ],
)
def test_which_commands_go_on_when_they_are_repeated(words, goes_on):
    assert goes_on_if_repeated(words) == goes_on


def test_what_a_launcher_passes_on_is_one_signal(monkeypatch):
    """Slurm may have sent it to its jobs, too."""
    first = (signal.SIGUSR1, 0.0)
    assert is_same(first, (signal.SIGUSR1, 0.1))
    assert not is_same(first, (signal.SIGTERM, 0.1))
    assert not is_same(first, (signal.SIGUSR1, 1.0))
    monkeypatch.setenv("ALPHABAR_SWEEP", "sweep")
    assert is_same(first, (signal.SIGTERM, 1.0))
    assert not is_same(first, (signal.SIGTERM, 10.0))
