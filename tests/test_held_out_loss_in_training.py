"""The held-out loss over a run: beside averages, resumed, and without an effect on training."""

import pytest
import torch
from lightning.pytorch import Callback

import toy
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.sources.digits import Digits
from alphabar.plotting.run_curves import draw_curves
from alphabar.runs.metrics_csv import read_metrics
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.held_out_loss import HeldOutLoss, loss_figures
from alphabar.training.ema import EMA, trainable_parameters
from alphabar.training.loggers.metrics_file import MetricsFile
from test_held_out_loss import fit


class Last(Callback):
    def on_train_end(self, trainer, pl_module):
        self.weights = {name: value.detach().clone() for name, value in trainable_parameters(pl_module).items()}
        self.training = pl_module.training


def test_training_is_the_same_to_the_bit_with_and_without(tmp_path, logged):
    finals = []
    for name, callbacks in {"with": [EMA(0.5), HeldOutLoss(16, 1)], "without": [EMA(0.5)]}.items():
        last = Last()
        fit(tmp_path / name, [*callbacks, last], module=toy.module(dropout=0.3))
        finals.append((last, callbacks[0].shadow))
    assert [step for step, _ in logged] == [0, 1, 2, 3, 4]
    assert finals[0][0].training
    for one, other in ((finals[0][0].weights, finals[1][0].weights), (finals[0][1], finals[1][1])):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_live_and_averaged_weights_are_measured_side_by_side(tmp_path, logged):
    """The figures are those of the weights that each name says, and count as time of evaluation."""
    averages, made, module = EMA(0.99), HeldOutLoss(32, every_n_steps=3), toy.module(lr=1e-2, dropout=0.3)
    trainer = fit(tmp_path, [averages, made], module, max_steps=8, loggers=[MetricsFile(tmp_path)])
    assert [step for step, _ in logged] == [0, 3, 6, 8]
    steps = dict(logged)
    assert steps[0]["held_out/loss"] == steps[0]["held_out/loss_ema"] == pytest.approx(1.0, abs=0.05)
    last = steps[8]
    assert len(last) == 14
    assert last["held_out/loss"] < last["held_out/loss_ema"] < 1  # averages come after
    module.eval()
    with torch.no_grad():
        live = loss_figures("held_out/loss", made.sums(module))
        with averages.applied(module):
            averaged = loss_figures("held_out/loss_ema", made.sums(module))
    assert last == live | averaged
    assert module.figures["held_out/loss_ema_snr_1e-1_1e0"] == last["held_out/loss_ema_snr_1e-1_1e0"]
    assert module.seconds_evaluating > 0
    assert trainer.global_step == 8
    draw_curves(read_metrics(tmp_path / "metrics.csv"), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_runs_without_averages_have_the_live_loss_alone(tmp_path, logged):
    """And a step that takes two batches is logged once."""
    fit(tmp_path, [HeldOutLoss(8, every_n_steps=1)], max_steps=2, accumulate_grad_batches=2)
    assert [step for step, _ in logged] == [0, 1, 2]
    assert not any("ema" in name for _, figures in logged for name in figures)


def test_a_resumed_run_logs_what_an_unbroken_one_does_and_nothing_twice(tmp_path, logged):
    """Steps take two batches, so that the first one after the checkpoint still belongs to its step."""

    def parts():
        return [EMA(0.5), HeldOutLoss(16, every_n_steps=2), Checkpoints(every_n_steps=4)]

    fit(tmp_path / "whole", parts(), max_steps=7, accumulate_grad_batches=2)
    whole = list(logged)
    logged.clear()
    fit(tmp_path / "halves", parts(), max_steps=4, accumulate_grad_batches=2)
    last = tmp_path / "halves" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "halves", parts(), max_steps=7, accumulate_grad_batches=2, ckpt_path=last)
    assert [step for step, _ in logged] == [0, 2, 4, 6, 7]
    assert logged == whole


def test_fewer_held_out_images_are_all_taken_and_without_any_it_is_off(tmp_path, logged, caplog):
    made = HeldOutLoss(512, every_n_steps=1)
    fit(tmp_path, [made], data=Digits(batch_size=32, seed=0, num_held_out=20), max_steps=1)
    assert sum(len(part) for part, _ in made.bank) == 20
    assert len(logged) == 2
    assert not [record for record in caplog.records if record.name.startswith("alphabar")]
    data = toy.digits()
    data.held_out_set = ResidentImages(torch.empty(0, 1, 8, 8, dtype=torch.uint8), None)
    fit(tmp_path, [HeldOutLoss(512, every_n_steps=1)], data=data, max_steps=1)
    assert len(logged) == 2
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("alphabar")]
    assert messages == ["the data has no held-out images, so there is no held-out loss"]


@pytest.mark.parametrize("name", ["num", "every_n_steps", "num_times", "batch_size"])
def test_what_is_less_than_one_is_refused(name):
    with pytest.raises(ValueError, match=f"need num, .* >= 1, got .*{name}=0"):
        HeldOutLoss(**{"num": 1, "every_n_steps": 1, name: 0})


def test_a_plot_of_a_run_that_ended_before_its_first_figures(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,held_out/loss,train/loss\n0,1.0,\n5,,0.5\n")
    draw_curves(read_metrics(tmp_path / "metrics.csv"), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
