"""`resume=auto`: the same command starts its run or goes on with it."""

import os
import shutil
import signal
from pathlib import Path

import pytest

import runs
from alphabar.runs.folders.run_dir import EARLIER_ATTEMPT, OWNER, claim, lock, run_dir, unlock, withdraw
from test_resume import CRASH, equal, rows

BRIEF = (*runs.BRIEF, "callbacks.held_out_loss=null", "resume=auto")
FOURTEEN = ("trainer.max_steps=14", *BRIEF[1:-1])  # steps, of which the tenth leaves a checkpoint


def auto(*overrides):
    return [*runs.words(*BRIEF), *overrides]


def test_the_same_command_starts_goes_on_and_has_nothing_to_do(command, tmp_path):
    """With trainer.max_steps in the place of a stop; `name` gives the run a fixed place."""
    code, out, err = command("train", *auto("name=mine"))
    assert code == 0, err
    folder = tmp_path / "outputs" / "train" / "mine"
    assert runs.checkpoint(folder)["global_step"] == 2
    code, out, err = command("train", *auto("name=mine", "trainer.max_steps=4"))
    assert code == 0, err
    assert "done: 4 steps" in out
    assert runs.checkpoint(folder)["global_step"] == 4
    before = runs.checkpoint(folder)
    code, out, err = command("train", *auto("name=mine", "trainer.max_steps=4"))
    assert code == 0, err
    assert "nothing to do: already at step 4 (trainer.max_steps=4)" in out
    assert equal(before["state_dict"], runs.checkpoint(folder)["state_dict"])
    assert not (folder / EARLIER_ATTEMPT).exists()


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(tmp_path):
    words = [*runs.words(*FOURTEEN), "resume=auto", f"hydra.run.dir={tmp_path / 'run'}"]
    code, _, err = runs.run(CRASH, *words, cwd=tmp_path, env={"CRASH": f"{int(signal.SIGKILL)} 9 0"})
    assert code == -signal.SIGKILL, err
    assert not runs.checkpoints(tmp_path / "run")
    code, out, err = runs.run(CRASH, *words, cwd=tmp_path, env={"CRASH": f"{int(signal.SIGKILL)} 12 0"})
    assert code == -signal.SIGKILL, err
    assert "an earlier attempt left no checkpoint, the run starts over; its files: run/earlier_attempt\n" in out
    assert [row["step"] for row in rows(tmp_path / "run" / EARLIER_ATTEMPT)] == ["7"]
    code, out, err = runs.run("train.py", *words, cwd=tmp_path)
    assert code == 0, err
    assert [row["step"] for row in rows(tmp_path / "run")] == ["7", "14"]
    uncut = runs.trained(*FOURTEEN)
    for key in ("state_dict", "ema", "optimizer_states"):
        assert equal(runs.checkpoint(uncut)[key], runs.checkpoint(tmp_path / "run")[key]), key


def test_another_command_is_refused_in_one_line(command, tmp_path):
    shutil.copytree(runs.trained(*FOURTEEN), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    same = [*runs.words(*FOURTEEN), "resume=auto", "hydra.run.dir=run"]
    for word, began, given in (
        ("schedule.beta_end=0.03", "schedule.beta_end=0.02", "schedule.beta_end=0.03"),
        ("seed=1", "began with seed=0,", "seed=1"),  # from which data.seed follows
        ("method=v", "LinearSchedule", "schedule=alphabar.diffusion.schedules.from_alpha_bar.CosineSchedule"),
    ):
        code, _, err = command("train", *same, word)
        assert code == 2
        assert err.count("\n") == 1
        assert began in err
        assert err.startswith(f"error: {given}: the run in {tmp_path / 'run'} began with {given.partition('=')[0]}=")
        assert err.endswith(f"to go on with the run as it is: resume={tmp_path / 'run'}\n")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_run_that_another_process_trains_is_left_alone(command, tmp_path, monkeypatch):
    claim(tmp_path / "run")
    monkeypatch.setattr("alphabar.runs.folders.run_dir.FileLock", Taken)
    code, _, err = command("train", *auto("hydra.run.dir=run"))
    assert (code, err) == (2, f"error: {tmp_path / 'run'}: another process is training this run just now\n")
    unlock(tmp_path / "run")


class Taken:
    def __init__(self, path, **_):
        self.path = path

    def acquire(self):
        from filelock import Timeout

        raise Timeout(str(self.path))


@pytest.mark.parametrize(("word", "found"), [((), ""), (("name=a/b",), ", got name=a/b"), (("name=..",), ", got name=..")])
def test_a_run_without_a_fixed_place_is_one_line(command, tmp_path, word, found):
    code, _, err = command("train", "resume=auto", *word)
    assert (code, err) == (
        2,
        "error: resume=auto: needs a folder that is the same at every start: hydra.run.dir=FOLDER, "
        f"or name=NAME for outputs/train/NAME{found}\n",
    )
    assert not list(tmp_path.iterdir())


def test_what_belongs_to_somebody_else_is_left_alone(command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    code, _, err = command("train", *auto("hydra.run.dir=run"))
    assert code == 2
    assert "is not empty, and a new run needs a folder of its own" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_bad_input_leaves_no_folder_and_takes_no_earlier_attempt_away(command, tmp_path):
    wrong = ("hydra.run.dir=run", "callbacks.samples=null", "+callbacks.checkpoints.every=1")
    assert command("train", *auto(*wrong))[0] == 2
    assert not (tmp_path / "run").exists()


def test_the_place_of_wandb_and_earlier_attempts_are_kept(tmp_path, capsys):
    folder = tmp_path / "run"
    for name in (OWNER, "config.yaml", "wandb_id.txt", "train.log", f"{EARLIER_ATTEMPT}/config.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    assert not claim(folder, again=True)
    assert (folder / f"{EARLIER_ATTEMPT}_2" / "config.yaml").read_text() == "config.yaml"
    assert {path.name for path in folder.iterdir()} == {
        OWNER,
        "wandb_id.txt",
        "train.log",
        EARLIER_ATTEMPT,
        f"{EARLIER_ATTEMPT}_2",
    }
    assert capsys.readouterr().out.endswith("earlier_attempt_2\n")
    lock(folder)
    unlock(folder)


def test_several_processes_from_outside_may_have_one_place_by_name(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert run_dir("outputs", "train", "auto", "mine") == "outputs/train/mine"


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_folder_that_another_process_removes_first_is_withdrawn(tmp_path, monkeypatch, after):
    """Each process of a command removes its folder where it is empty; the first one may be deleting the files in it just then."""
    folder = tmp_path / "run"
    claim(folder)
    (folder / "config.yaml").write_text("seed: 0\n")
    unlinked = []

    def unlink(path, **arguments):
        os.unlink(path)
        unlinked.append(path)
        if len(unlinked) == after:
            shutil.rmtree(folder)

    monkeypatch.setattr(Path, "unlink", unlink)
    if after == 0:
        shutil.rmtree(folder)
    withdraw(folder)
    assert len(unlinked) == after
    assert not folder.exists()


def test_hydras_logs_outlive_a_run_that_trained_nothing(tmp_path):
    claim(tmp_path)
    (tmp_path / "train.log").write_text("a line\n")
    (tmp_path / "checkpoints").mkdir()
    withdraw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.log"]
