"""The lines at the beginning and at the end of a run: they are true, and their commands work in the shell where it was started."""

import itertools
import shlex
import signal
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Timer

import runs
import toy
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.stopping import STOP_SIGNALS
from alphabar.training.run_summary import clock, in_folder

WITH_CURVES = ("callbacks.fid=null", "callbacks.film=null", "callbacks.samples=null", "callbacks.held_out_loss=null")
QUICK = (*WITH_CURVES, "callbacks.curves=null")


def lines(out):
    """The labelled lines of what a run printed: {"go on": "python train.py resume=..."}."""
    return {line[2:14].strip(): line[14:].strip() for line in out.splitlines() if line.startswith("  ")}


def words_after(out, label="go on"):
    """The arguments that a shell hands to train.py when the user copies a line."""
    return shlex.split(lines(out)[label])[2:]


def start(command, *words, folder="run", quick=QUICK):
    code, out, err = command("train", *runs.words(*quick, *words, folder=folder))
    assert code == 0, err
    return out


def test_a_run_begins_with_what_it_is_composed_of(command):
    out = start(command, "trainer.max_steps=2", "trainer.accumulate_grad_batches=2")
    head = out[: out.index("done:")]
    assert "data       797 images 8x8 grey, 10 classes (Digits)" in head
    assert "preset     digits (method=ddpm, network=unet_tiny, features=classifier, recipe=digits)" in head
    assert "network    UNet, " in head
    assert "Epsilon, LinearSchedule, Denoising, Pixels, Unconditional" in head
    assert "device     " in head
    assert "speed      32-true\n" in head
    assert "steps      2 steps, 64 images a step" in head
    assert "steps      1 step, 32 images a step" in start(command, "trainer.max_steps=1", folder="one")


def test_only_files_that_were_written_are_named(command, tmp_path):
    out = start(command, "trainer.max_steps=2")
    assert "pictures" not in lines(out)
    for label in ("figures", "checkpoints"):
        first, *others = lines(out)[label].split("  ")
        assert all((tmp_path / "run" / name).exists() for name in (first.removeprefix("run/"), *others))
    assert lines(start(command, "trainer.max_steps=2", folder="other", quick=WITH_CURVES))["pictures"] == "other/curves.png"


def test_without_checkpoints_there_is_nothing_to_go_on_from(command):
    out = start(command, "trainer.max_steps=2", "callbacks.checkpoints=null")
    assert not {"checkpoints", "sample", "go on"} & lines(out).keys()


@pytest.mark.parametrize(
    ("limits", "said", "longer"),
    [
        (["trainer.max_steps=2"], "already at step 2 (trainer.max_steps=2)", "trainer.max_steps=4"),
        (["trainer.max_steps=-1", "+trainer.max_epochs=1", "data.batch_size=300"], "already at step 2 (trainer.max_epochs=1)", "+trainer.max_epochs=2"),
    ],
    ids=["steps", "epochs"],
)  # fmt: skip
def test_the_command_to_go_on_raises_the_limit_that_ended_the_run(command, limits, said, longer):
    words = words_after(start(command, *limits))
    assert words[-1] == longer
    code, out, err = command("train", *words[:-1])
    assert code == 0, err
    assert f"nothing to do: {said}" in out
    assert "done" not in out
    code, out, err = command("train", *words)
    assert code == 0, err
    assert "done: 4 steps" in out


def test_a_run_that_is_out_of_time_prints_so(command, monkeypatch):
    clock_of_test = itertools.count(0, 0.25)  # seconds, one look at it after the other
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="train": next(clock_of_test))
    out = start(command, "trainer.max_steps=1000000", "+trainer.max_time=00:00:00:05")
    assert words_after(out)[-1] >= "+trainer.max_time=00:00:00:10"  # the last step may have taken long
    assert clock(86400 + 2 * 3600 + 3 * 60 + 4) == "01:02:03:04"


def test_a_run_whose_time_is_over_before_the_first_step_prints_so(command):
    out = start(command, "trainer.max_steps=1000000", "+trainer.max_time=00:00:00:00")
    assert "no step was taken: the time was over (trainer.max_time=00:00:00:00)\n" in out
    assert "go on" not in lines(out)


def test_a_path_that_a_shell_would_break_is_quoted(command, tmp_path):
    out = start(command, "trainer.max_steps=2", folder="my runs/a=1")
    code, out, err = command("train", *words_after(out))
    assert code == 0, err
    assert "done: 4 steps" in out
    assert runs.checkpoint(tmp_path / "my runs" / "a=1")["global_step"] == 4


def test_paths_are_those_of_the_shell_that_started_the_run(command, tmp_path):
    out = start(command, "trainer.max_steps=2", "hydra.job.chdir=true")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert "run folder: run\n" in out
    assert lines(out)["sample"] == "python sample.py checkpoint=run/checkpoints/last.ckpt num=64"


def test_a_resumed_run_keeps_the_earlier_configuration_if_it_differs(command, tmp_path):
    start(command, "trainer.max_steps=2", f"features.cache_dir={tmp_path / 'unused'}")
    earlier = tmp_path / "run" / "config_until_step_2.yaml"
    assert command("train", "resume=run")[0] == 0
    assert not earlier.exists()
    assert command("train", "resume=run", "trainer.max_steps=3")[0] == 0
    assert "max_steps: 2" in earlier.read_text()


@pytest.mark.parametrize("key", ["max_steps", "+max_epochs", "+limit_train_batches"])
def test_a_run_of_nothing_is_refused(command, tmp_path, key):
    word = f"{'+' if key[0] == '+' else ''}trainer.{key.lstrip('+')}=0"
    code, _, err = command("train", *runs.words(word, folder="run"))
    assert (code, err) == (2, f"error: {word.lstrip('+')}: there would be nothing to train\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "word", ["trainer.use_distributed_sampler=true", "+trainer.val_check_interval=2", "+trainer.limit_val_batches=3"]
)
def test_trainer_arguments_that_would_do_nothing_are_refused(command, word):
    code, _, err = command("train", *runs.words(word, folder="run"))
    assert code == 2
    assert err.startswith(f"error: {word.lstrip('+').split('=')[0]}=")
    assert err.count("\n") == 1


class Signal(Callback):
    """Behaves as if a signal came during the first step."""

    def __init__(self, signum):
        self.signum = signum

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        STOP_SIGNALS.received = self.signum


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_after_a_signal_the_checkpoint_and_the_command_to_go_on(command, monkeypatch, tmp_path, signum, expected):
    from alphabar.training import run

    build_callbacks = run.build_callbacks
    monkeypatch.setattr(run, "build_callbacks", lambda *arguments: [Signal(signum), *build_callbacks(*arguments)])
    code, out, _ = command("train", *runs.words(*QUICK, "trainer.max_steps=4", folder="run"))
    assert code == expected
    assert "stopped at step 1" in out
    assert (tmp_path / lines(out)["checkpoint"]).is_file()
    monkeypatch.setattr(run, "build_callbacks", build_callbacks)
    code, out, err = command("train", *words_after(out))
    assert code == 0, err
    assert "done: 4 steps" in out


class StopAt(Callback):
    """Ends training as a timer does, at one batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            trainer.should_stop = True


def test_what_ends_training_in_the_middle_of_a_step_waits_for_its_end(tmp_path):
    trainer = toy.trainer(tmp_path, [StopAt(3), Checkpoints(100)], max_steps=9, accumulate_grad_batches=3)
    trainer.fit(toy.module(), datamodule=toy.digits())
    saved = runs.checkpoint(tmp_path)
    assert saved["global_step"] == 2
    assert "'num_batches': 6" in str(saved["loops"])


def test_callbacks_null_leaves_no_checkpoint_of_lightning(command, tmp_path):
    tiny = [word for word in runs.TINY if not word.startswith("callbacks.")]
    code, _, err = command("train", *runs.words("callbacks=null", "trainer.max_steps=2", folder="run", tiny=tiny))
    assert code == 0, err
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_advice_goes_beyond_the_step_that_was_reached(command):
    start(command, "trainer.max_steps=5")
    code, out, _ = command("train", "resume=run", "trainer.max_steps=2")
    assert code == 0
    assert "already at step 5" in out
    assert "trainer.max_steps=10" in out


def test_a_resumed_run_can_be_profiled(command):
    start(command, "trainer.max_steps=2")
    code, out, err = command("train", "resume=run", "trainer.max_steps=4", "profiler=simple")
    assert code == 0, err
    assert "Profiler Report" in out


def test_lightning_advertises_nothing_in_a_process_that_has_not_imported_it(tmp_path):
    process = runs.start_cold("train.py", *runs.words(*QUICK, "trainer.max_steps=1", folder="run"), cwd=tmp_path)
    code, _, err = runs.finish(process)
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("callback", "kind"),
    [("export.Export", "AutoencoderModule"), ("clip.ExportCLIP", "ContrastiveModule")],
    ids=lambda value: value,
)
def test_a_callback_of_another_model_is_refused_before_the_first_step(command, tmp_path, callback, kind):
    own = f"+callbacks.own._target_=alphabar.training.callbacks.{callback}"
    code, _, err = command("train", *runs.words(*runs.BRIEF, own, folder=tmp_path / "out"))
    assert code == 2
    assert f"error: callbacks: {callback.partition('.')[2]} is for {kind}, and this run trains DiffusionModule" in err
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize("folder", ["runs/one", "runs/one of mine"])
def test_advice_with_brackets_stands_in_quotes(folder):
    """zsh takes brackets for a pattern of file names, and Hydra a path with spaces for one where all of it is in quotes."""
    advice = in_folder("python sample.py stages=[{folder}/last.ckpt] num=4", Path(folder))
    assert advice.split(" ")[2].startswith("'stages=[")
    override = OverridesParser.create().parse_override(shlex.split(advice)[2])
    assert override.value() == [f"{folder}/last.ckpt"]
