"""Callbacks of Lightning, named in a configuration, act on the figures of a run as they do elsewhere."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import runs
import toy
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.step_figures import StepFigures
from alphabar.training.callbacks.validation import ValidationHooks
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.loggers.metrics_file import MetricsFile
from alphabar.training.optimization.lr_schedules import PlateauRate

STOCK = "lightning.pytorch.callbacks"
VALUES = {2: 3.0, 4: 1.0, 6: 1.5, 8: 1.25, 10: 0.75, 12: 1.125, 14: 1.375, 16: 0.5}
BRIEF = ("callbacks.fid=null", "callbacks.samples=null", "callbacks.film=null", "callbacks.curves=null")
TINY = [word for word in runs.TINY if not word.startswith(("callbacks.fid", "callbacks.samples", "callbacks.film"))]


class Measures(Recurring):
    """Logs a figure of its own every two steps and another one at every step."""

    def act(self, trainer, pl_module, is_last):
        if trainer.global_step in VALUES:
            log_figures(trainer, {"held_out/mine": VALUES[trainer.global_step]})
        log_figures(trainer, {"train/loss": 1.0})


class Hears(Callback):
    def __init__(self):
        self.heard = []

    def on_validation_end(self, trainer, pl_module):
        self.heard.append((trainer.global_step, float(trainer.callback_metrics["held_out/mine"])))


class Logs(Callback):
    """Logs a figure as callbacks of others do, which falls once and then stands: at steps or at the ends of epochs of two steps."""

    def __init__(self, hook):
        self.hook = hook

    def on_train_batch_end(self, trainer, pl_module, *_):
        pl_module.log("lab/every", 1.0)
        if self.hook == "batch" and trainer.global_step % 2 == 0:
            pl_module.log("lab/mine", VALUES[min(trainer.global_step, 4)])

    def on_train_epoch_end(self, trainer, pl_module):
        if self.hook == "epoch":
            pl_module.log("lab/mine", VALUES[min(trainer.global_step, 4)])


def fit(folder, max_steps, stock, resumed=False):
    callbacks = [Measures(1), *stock, ValidationHooks(), Checkpoints(every_n_steps=3)]
    trainer = toy.trainer(folder, callbacks, max_steps=max_steps, loggers=[MetricsFile(folder)])
    trainer.check_val_every_n_epoch = None
    path = folder / "checkpoints" / "last.ckpt" if resumed else None
    trainer.fit(toy.module(), datamodule=toy.digits(batch_size=400), ckpt_path=path, weights_only=True)  # epochs of two steps
    return trainer


def test_patience_counts_measurements_and_nothing_else(tmp_path):
    """Epochs end after every second step, and figures of training come with every step."""
    early, hears = EarlyStopping("held_out/mine", patience=2), Hears()
    assert fit(tmp_path, 30, [early, hears]).global_step == 8
    assert (float(early.best_score), early.wait_count) == (1.0, 2)
    assert hears.heard == [(step, VALUES[step]) for step in (2, 4, 6, 8)]


def test_a_resumed_run_goes_on_counting(tmp_path):
    fit(tmp_path, 7, [EarlyStopping("held_out/mine", patience=2)])
    assert fit(tmp_path, 18, [early := EarlyStopping("held_out/mine", patience=2)], resumed=True).global_step == 8
    assert early.wait_count == 2
    assert fit(tmp_path, 18, [EarlyStopping("held_out/mine", patience=2)], resumed=True).global_step == 8  # it had ended
    assert fit(tmp_path, 18, [EarlyStopping("held_out/mine", patience=3)], resumed=True).global_step == 18


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_the_best_by_any_figure_are_kept_in_a_resumed_run_too(tmp_path):
    def best():
        return ModelCheckpoint(tmp_path / "best", "{step}", "held_out/mine", save_top_k=2)

    fit(tmp_path, 7, [best()])
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["step=4.ckpt", "step=6.ckpt"]
    fit(tmp_path, 16, [made := best()], resumed=True)
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["step=10.ckpt", "step=16.ckpt"]
    assert made.best_model_path.endswith("step=16.ckpt")


def test_a_figure_that_nobody_measures_is_told_of_once(tmp_path, caplog):
    assert fit(tmp_path, 6, [EarlyStopping("held_out/mien")]).global_step == 6
    (line,) = (message for message in caplog.messages if "EarlyStopping" in message)
    assert line == (
        "step 2: EarlyStopping waits for monitor=held_out/mien, which has not been measured. Did you mean held_out/mine?"
    )


def test_stock_callbacks_work_by_their_names_alone(command, caplog):
    """Learning stands still, so that patience is over after the measurements at steps 4, 8 and 12."""
    words = {
        "early": ("EarlyStopping", {"monitor": "held_out/loss_ema", "patience": 3, "min_delta": 0.1}),
        "good": ("ModelCheckpoint", {"monitor": "held_out/loss", "save_last": "true"}),
        "rate": ("LearningRateMonitor", {}),
        "device": ("DeviceStatsMonitor", {}),
        "summary": ("ModelSummary", {}),
        "bar": ("RichProgressBar", {}),
        "timer": ("Timer", {"duration": "00:00:10:00"}),
    }
    stock = [
        word
        for key, (name, arguments) in words.items()
        for word in (
            f"+callbacks.{key}._target_={STOCK}.{name}",
            *(f"+callbacks.{key}.{argument}={value}" for argument, value in arguments.items()),
        )
    ]
    quick = ("trainer.max_steps=40", "optimizer.lr=1e-9", "callbacks.held_out_loss.every_n_steps=4", "profiler=simple")
    code, out, err = command("train", *runs.words(*stock, *quick, *BRIEF, folder="out", tiny=TINY))
    assert code == 0, err
    assert "done: 12 steps" in out
    assert "step 12: Monitored metric held_out/loss_ema did not improve in the last 3 records" in err
    assert "Total params" in caplog.text
    (kept,) = {name for name in runs.checkpoints(Path("out/checkpoints")) if name.startswith("good/step_")}
    assert "good/last.ckpt" in runs.checkpoints(Path("out/checkpoints"))  # beside the run's own
    assert runs.checkpoint("out")["global_step"] == 12
    columns = set(runs.table(Path("out/metrics.csv"))[0])
    assert {"lr-Adam", "DeviceStatsMonitor.on_train_batch_end/cpu_percent"} <= columns
    steps = [int(row["step"]) for row in runs.table(Path("out/metrics.csv"))]
    assert steps == sorted(set(steps))
    code, _, err = command("sample", f"checkpoint=out/checkpoints/{kept}", "num=2", "sampler.num_steps=2", "hydra.run.dir=drawn")
    assert (code, err) == (0, "")


def test_the_folder_of_the_runs_own_checkpoints_is_refused(command):
    words = (f"+callbacks.mine={{_target_:{STOCK}.ModelCheckpoint,dirpath:out/checkpoints}}", *BRIEF)
    code, _, err = command("train", *runs.words(*words, folder="out", tiny=TINY))
    assert code == 2
    assert err.startswith("error: callbacks.mine.dirpath=")
    assert "the run's own checkpoints lie there" in err


def test_all_processes_stop_together(tmp_path):
    words = [
        f"+callbacks.early={{_target_:{STOCK}.EarlyStopping,monitor:held_out/loss,patience:2,min_delta:0.1}}",
        *("trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_steps=40", "optimizer.lr=1e-9"),
        "callbacks.held_out_loss.every_n_steps=2",
    ]
    code, out, err = runs.run("train.py", *runs.words(*words, *BRIEF, folder=tmp_path / "out", tiny=TINY), cwd=tmp_path)
    assert code == 0, err
    assert "done: 4 steps" in out
    assert err.count("did not improve") == 1


@pytest.mark.parametrize("every_n_steps", [2, 5])
@pytest.mark.parametrize("hook", ["batch", "epoch"])
def test_what_another_callback_logs_is_heard_whatever_lightning_writes(tmp_path, hook, every_n_steps):
    """Measurements at steps 2, 4, 6 and 8; those who watch nothing do not hear of a figure that stands at every step."""
    module, early, hears = toy.module(), EarlyStopping("lab/mine", patience=2), Hears()
    module.lr_scheduler = PlateauRate(monitor="lab/mine", patience=1)
    callbacks = [Logs(hook), early, hears, StepFigures(), ValidationHooks()]
    files = [MetricsFile(tmp_path)]
    trainer = toy.trainer(tmp_path, callbacks, max_steps=30, loggers=files, log_every_n_steps=every_n_steps, limit_train_batches=2)
    trainer.check_val_every_n_epoch = None
    trainer.fit(module, datamodule=toy.digits(batch_size=200))
    assert (trainer.global_step, early.wait_count, hears.heard) == (8, 2, [])
    assert (trainer.lr_scheduler_configs[0].scheduler.num_measured, trainer.optimizers[0].param_groups[0]["lr"]) == (4, 5e-4)
    rows = runs.table(tmp_path / "metrics.csv")
    assert {int(row["step"]): float(row["lab/mine"]) for row in rows if row["lab/mine"]} == {2: 3, 4: 1, 6: 1, 8: 1}


@pytest.mark.parametrize("figure", ["held_out/mine", "train/loss"])
def test_figures_are_callback_metrics(tmp_path, figure):
    metrics = fit(tmp_path, 2, []).callback_metrics
    assert torch.is_tensor(metrics[figure])
