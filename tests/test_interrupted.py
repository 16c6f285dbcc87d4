"""Signals in the middle of figures and samples: they are cut off, and the resumed run begins with them."""

import signal
import threading
import types
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

import toy
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.runs.checkpoints.torch_files import load_torch_file
from alphabar.training.callbacks import stall
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.held_out_loss import HeldOutLoss
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.samples import Samples
from alphabar.training.callbacks.stall import StallWatch
from alphabar.training.callbacks.stopping import STOP_SIGNALS, interruptible
from alphabar.training.ema import EMA
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.loggers.metrics_file import MetricsFile
from alphabar.training.trainer import enter_once_more_if_due
from test_resume import equal, rows

MAX_STEPS = 4


class Slow(Recurring):
    """Measures a figure in three parts that takes the place of FID: smaller at each time, so that best.ckpt is replaced."""

    def act(self, trainer, pl_module, is_last):
        parts = [10.0 / (1 + trainer.global_step + part) for part in interruptible(range(3), 3, pl_module.device)]
        log_figures(trainer, {"fid": sum(parts)})


class Ends(Callback):
    """Counts how often training ended, as films and curves see it."""

    num = 0

    def on_train_end(self, trainer, pl_module):
        self.num += 1


def fit(folder, monkeypatch, cut_at=None):
    """Trains from the beginning, or from the last checkpoint in the folder if there is one.

    cut_at: (step, n): a signal comes when the run asks for the n-th time at this step whether to go on.
    """
    last = folder / "checkpoints" / "last.ckpt"
    saved = load_torch_file(last, "last") if last.exists() else None
    ends = Ends()
    callbacks = [
        EMA(0.5),
        HeldOutLoss(8, every_n_steps=2, num_times=1, batch_size=4),
        Samples(DDIM(num_steps=2), 0, 4, every_n_steps=2, batch_size=2),
        Slow(2),
        ends,
        Checkpoints(every_n_steps=3),
    ]
    loggers = [MetricsFile(folder, saved and saved["global_step"])]
    trainer = toy.trainer(folder, callbacks, max_steps=MAX_STEPS, loggers=loggers)
    enter_once_more_if_due(trainer)
    asked = []

    def agreed_signal(device):
        asked.append(trainer.global_step)
        return signal.SIGTERM if cut_at is not None and (asked[-1], asked.count(asked[-1])) >= cut_at else None

    monkeypatch.setattr(STOP_SIGNALS, "agreed_signal", agreed_signal)
    arguments = {"datamodule": toy.digits(), "ckpt_path": last if saved else None, "weights_only": True}
    if cut_at is None:
        trainer.fit(toy.module(dropout=0.3), **arguments)
        assert ends.num == 1
        return
    with pytest.raises(SystemExit) as stopped:
        trainer.fit(toy.module(dropout=0.3), **arguments)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert (trainer.global_step, ends.num) == (cut_at[0], 0)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uncut")
    with pytest.MonkeyPatch.context() as patch:
        fit(folder, patch)
    return folder


# At each step with figures it is asked 2 + 2 times for the held-out loss of live weights and averages, 2 for samples and 3 for FID.
@pytest.mark.parametrize("cuts", [[(2, 3), (3, 1)], [(2, 9), (4, 6)]], ids=str)
def test_what_a_signal_cuts_off_is_done_by_the_resumed_run(uncut, tmp_path, monkeypatch, cuts):
    """The last step included, after which only that is left to do; then nothing is."""
    for step, count in cuts:
        fit(tmp_path, monkeypatch, (step, count))
        last = load_torch_file(tmp_path / "checkpoints" / "last.ckpt", "last")
        assert last["global_step"] == step
        has_figures = step % 2 == 0
        assert [each.get("is_due") for each in last["callbacks"].values()].count(True) > 0 or not has_figures
        names = {name for row in rows(tmp_path) if row["step"] == str(step) for name, value in row.items() if value}
        assert "fid" not in names
        assert ("held_out/loss" in names) == (has_figures and count > 4)
        assert (tmp_path / "samples" / f"step_{step:07d}.png").exists() == (has_figures and count > 6)
    fit(tmp_path, monkeypatch)
    assert rows(tmp_path) == rows(uncut)
    for picture in (uncut / "samples").iterdir():
        assert (tmp_path / "samples" / picture.name).read_bytes() == picture.read_bytes()
    for name in ("last", "best"):
        one, other = (load_torch_file(folder / "checkpoints" / f"{name}.ckpt", name) for folder in (uncut, tmp_path))
        for key in ("global_step", "state_dict", "ema", "optimizer_states", "figures"):
            assert equal(one[key], other[key]), (name, key)
    last = load_torch_file(tmp_path / "checkpoints" / "last.ckpt", "last")
    assert not any(each.get("is_due") for each in last["callbacks"].values())


class Hangs(Callback):
    """Waits for ever in its second step, as for a server that does not answer. Only then does the watch become impatient."""

    def __init__(self, watch):
        self.watch = watch
        self.is_over = threading.Event()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 2:
            self.watch.stall_seconds = 0.2
            assert self.is_over.wait(60)
            raise SystemExit(1)


def test_a_callback_that_stands_still_is_named(tmp_path, monkeypatch, capsys):
    watch = StallWatch(20)
    hangs = Hangs(watch)
    monkeypatch.setattr(stall, "end_now", lambda code: hangs.is_over.set())
    trainer = toy.trainer(tmp_path, [watch, hangs])
    with pytest.raises(SystemExit):
        trainer.fit(toy.module(), datamodule=toy.digits())
    where = f"where: {tmp_path / 'stalled_rank_0.txt'}; stall_seconds=null waits for ever"
    (line,) = {line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")}
    assert line == f"error: the run has stood still for 0.2 s in a callback, Hangs.on_train_batch_end; {where}"
    assert Path(__file__).name in (tmp_path / "stalled_rank_0.txt").read_text()


def test_a_run_that_stands_still_ends_though_its_folder_is_gone(tmp_path, monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(stall, "end_now", codes.append)
    StallWatch(0.2)._end("in a callback", tmp_path / "gone", (0, 1))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: the run has stood still for 0.2 s in a callback; ")
    assert second == f"error: cannot write {tmp_path / 'gone' / 'stalled_rank_0.txt'}: its folder is gone"
    assert codes == [1]


def test_a_callback_that_gets_on_does_not_stand_still(monkeypatch):
    """By another batch, or by another place of the code."""
    monkeypatch.setattr(STOP_SIGNALS, "received", None)
    watch, data = StallWatch(1), types.SimpleNamespace(is_reading=False)
    states = []
    for asks in (False, False, True):
        if asks:
            STOP_SIGNALS.interrupt(torch.device("cpu"))
        states.append(watch._state(data))
    assert states[0] == states[1] != states[2]
    assert states[2] != watch._state(data)
