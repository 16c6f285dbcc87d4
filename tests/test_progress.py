"""What a command says while it works: bars, lines where there is no terminal, durations, and how long a run will take."""

import sys
import time

import pytest
import torch
from lightning.pytorch import Callback

import alphabar.progress
import runs
import toy
from alphabar.progress import ProgressLines, counted, format_duration, show_progress
from alphabar.training.callbacks import forecast as forecasts
from alphabar.training.callbacks.composition import describe_choices, describe_time
from alphabar.training.callbacks.forecast import Forecast
from alphabar.training.callbacks.progress import Progress, show_phase
from alphabar.training.callbacks.recurring import Recurring


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0523, "0.0523 s"),
        (12, "12 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (100_000, "1 day 3 h"),
        (300_000, "3 days 11 h"),
    ],
)
def test_durations_are_said_as_people_do(seconds, text):
    assert format_duration(seconds) == text


def test_things_are_counted():
    assert [counted(number, "step") for number in (1, 2, 1800)] == ["1 step", "2 steps", "1,800 steps"]


def test_a_line_says_what_is_done_how_far_it_is_and_how_long_it_takes():
    lines = ProgressLines("FID at step 1,800", 40)
    assert lines.line(3.0) == "FID at step 1,800: 0 so far"
    lines.num = 10
    assert lines.line(5.0) == "FID at step 1,800: 25%, 15 s left"
    assert ProgressLines("x", None).line(5.0) == "x: 0 so far"


def test_without_a_terminal_lines_come_now_and_then_and_on_one_process(monkeypatch, capsys):
    monkeypatch.setattr(alphabar.progress, "SECONDS", 0.0)
    for is_shown in (True, False):
        with show_progress("reading images", 4, "img", is_shown) as bar:
            for _ in range(2):
                bar.update(2)
        said = capsys.readouterr().err.splitlines()
        assert [line.partition(",")[0] for line in said] == (["reading images: 50%", "reading images: 100%"] if is_shown else [])


def test_short_things_are_done_in_silence(capsys):
    with show_progress("reading images", 4, "img") as bar:
        bar.update(4)
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_that_names_what_is_done(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with show_progress("reading images", 4, "img") as bar:
        bar.start_t -= 5  # as if it had begun 5 seconds ago
        bar.last_print_t -= 5
        bar.update(2)
    assert "reading images:  50%" in capsys.readouterr().err


class Times:
    """A Trainer as `describe_time` sees it."""

    class strategy:
        root_device = torch.device("cpu")


def test_a_run_of_days_on_a_cpu_says_what_to_change():
    lines = describe_time(Forecast(5.0, 500_000.0, 3600.0), Times)
    assert lines["time"].startswith("5 s a step: about 5 days 18 h and 1 h 00 min for samples and figures, until ")
    assert "preset=laptop" in lines["faster"]
    lines = describe_time(Forecast(0.05, 90.0, 0.0), Times)
    assert "faster" not in lines
    assert lines["time"].startswith("0.05 s a step: about 1 min 30 s, until ")
    assert describe_time(Forecast(0.05, float("inf"), 0.0), Times) == {"time": "0.05 s a step"}
    assert describe_time(Forecast(0.05, 1e20, 0.0), Times)["time"].endswith(", until the year 9999")


def test_the_preset_is_a_line_if_a_run_has_one():
    assert describe_choices({"preset": "laptop", "network": "unet_light"}) == {"preset": "laptop (network=unet_light)"}
    assert [describe_choices(choices) for choices in (None, {}, 5, "preset", ["preset"])] == [{}] * 5


def test_trial_steps_change_nothing_and_tell_the_time(command, tmp_path, monkeypatch):
    """The weights after two steps are those of a run without trials, with dropout and times that are learned, too."""
    words = ("network.dropout=0.3", "times=importance", "trainer.max_steps=2", "callbacks.fid=null", "callbacks.film=null")
    ends = {}
    for name in ("with", "without"):
        code, out, err = command("train", *runs.words(*words, folder=name))
        assert code == 0, err
        assert ("time       " in out) == (name == "with")
        ends[name] = runs.checkpoint(tmp_path / name)
        monkeypatch.setattr("alphabar.training.callbacks.composition.Composition.on_train_start", lambda *args: None)
    for key, value in ends["with"]["state_dict"].items():
        assert torch.equal(value, ends["without"]["state_dict"][key]), key


def test_planned_evaluations_are_those_that_a_run_takes(command, monkeypatch):
    planned, seen = [], []
    plan = forecasts.planned_evaluations

    def spied(trainer, module):
        planned.append(plan(trainer, module))
        module.denoiser.network.register_forward_pre_hook(
            lambda network, inputs: None if torch.is_grad_enabled() else seen.append(len(inputs[0]))
        )
        return 0  # no trials after this one

    monkeypatch.setattr(forecasts, "planned_evaluations", spied)
    words = ("sampler=heun", "method=edm", "sampler.num_steps=3", "callbacks.samples.num=4", "callbacks.samples.every_n_steps=2")
    words += (
        "callbacks.samples.batch_size=4",
        "callbacks.fid.num=6",
        "callbacks.fid.every_n_steps=3",
        "callbacks.fid.batch_size=3",
    )
    words += (
        "callbacks.film.num=2",
        "callbacks.held_out_loss.num=5",
        "callbacks.held_out_loss.every_n_steps=2",
        "trainer.max_steps=3",
    )
    code, _, err = command("train", *runs.words(*words))
    assert code == 0, err
    assert planned[0] == pytest.approx(sum(seen), rel=0.25)  # Heun's last step takes one evaluation, not two
    assert planned[0] > 0


def test_wait_is_over_when_the_device_is_done():
    begin = time.perf_counter()
    assert forecasts.median_seconds(lambda: time.sleep(0.01), torch.device("cpu")) >= 0.01
    assert time.perf_counter() - begin >= 0.04


@pytest.mark.parametrize(("seconds", "num"), [(0.5, 4), (3.0, 2), (60.0, 1)])
def test_what_takes_long_is_not_tried_often(monkeypatch, seconds, num):
    clock, calls = [0.0], []
    monkeypatch.setattr(forecasts.time, "perf_counter", lambda: clock[0])

    def act():
        clock[0] += seconds
        calls.append(clock[0])

    assert forecasts.median_seconds(act, torch.device("cpu")) == seconds
    assert len(calls) == num


@pytest.mark.parametrize(("compiled", "seconds"), [(True, 1.0), (False, 60.0)])
def test_the_time_that_a_compiler_takes_is_no_time_of_a_step(tmp_path, monkeypatch, compiled, seconds):
    """The first call takes a minute: with a compiler, that is its work; without, it is a network that is as slow."""
    clock, found = [0.0], []

    def step(trainer, module, batch):
        clock[0] += 1.0 if clock[0] else 60.0

    class Asks(Callback):
        def on_train_start(self, trainer, pl_module):
            with monkeypatch.context() as patch:
                patch.setattr(forecasts.time, "perf_counter", lambda: clock[0])
                patch.setattr(forecasts, "try_step", step)
                found.append(forecasts.forecast(trainer, pl_module))
            trainer.should_stop = True

    module = toy.module()
    if compiled:  # when it is first called, which is never
        module.denoiser.network.compile(backend="eager")
    toy.trainer(tmp_path, [Asks()], max_steps=1).fit(module, datamodule=toy.digits())
    assert found[0].step == seconds


def test_the_bar_of_training_is_at_its_step_while_something_else_goes_on(tmp_path, monkeypatch):
    """Not one step behind, as it would be at 1,799 of 1,800 during the last FID."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress, seen = Progress(), []

    class Slow(Recurring):
        def act(self, trainer, pl_module, is_last):
            with show_phase(trainer, "something slow", 1, "step"):
                seen.append((trainer.global_step, progress.bar.n))

    toy.trainer(tmp_path, [Slow(2), progress], max_steps=4).fit(toy.module(), datamodule=toy.digits())
    assert seen == [(2, 2), (4, 4)]
