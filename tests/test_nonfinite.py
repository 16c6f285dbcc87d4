"""Losses and gradients that are not finite: no step is taken, nothing of them is saved, and the run says so."""

import csv
import json
import math
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode

import runs
import toy
from alphabar.data.loading.order import EpochOrder
from alphabar.errors import UserError
from alphabar.runs.ema.profiles import Exponential
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.nonfinite import NonFiniteSteps
from alphabar.training.callbacks.training_log import TrainingLog
from alphabar.training.ema import EMA
from alphabar.training.modules.base import skip_if_nonfinite
from alphabar.training.modules.diffusion import DiffusionModule
from alphabar.training.recovery.finite import nonfinite_weight
from test_resume import equal

QUIET = (
    "callbacks.fid=null",
    "callbacks.samples=null",
    "callbacks.film=null",
    "callbacks.curves=null",
    "callbacks.held_out_loss=null",
)
LAST = "checkpoints/last.ckpt"
POISON_RANK_1 = """
import sys
sys.path.insert(0, {root!r})
import train
from alphabar.training.modules.diffusion import DiffusionModule
original = DiffusionModule.training_step
def training_step(self, batch, batch_idx):
    out = original(self, batch, batch_idx)
    factor = float("inf") if self.global_step == 3 and self.global_rank == 1 else 1.0
    return {{**out, "loss": out["loss"] * factor, "losses": out["losses"] * factor}}
DiffusionModule.training_step = training_step
train.main()
"""


@pytest.fixture
def poison(monkeypatch):
    """Makes the loss of some optimizer steps, counted from 0, NaN, in one batch of each."""
    original = DiffusionModule.training_step

    def in_steps(steps, batch_of_step=0, value=math.nan):
        def training_step(self, batch, batch_idx):
            out = original(self, batch, batch_idx)
            if self.global_step not in steps or batch_idx % self.trainer.accumulate_grad_batches != batch_of_step:
                return out
            return {**out, "loss": out["loss"] * value, "losses": torch.cat([out["losses"][:1] * value, out["losses"][1:]])}

        monkeypatch.setattr(DiffusionModule, "training_step", training_step)

    return in_steps


class History(Callback):
    """Keeps the weights, the state of the optimizer and the learning rate after each optimizer step."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.states):
            optimizer = trainer.optimizers[0]
            state = [{name: value.clone() for name, value in each.items()} for each in optimizer.state.values()]
            weights = [weight.detach().clone() for weight in pl_module.parameters()]
            self.states.append((weights, state, optimizer.param_groups[0]["lr"]))


def module(fused=False, **arguments):
    made = toy.module(warmup_steps=10, **arguments)
    made.make_optimizer = partial(torch.optim.Adam, lr=1e-3, fused=fused)
    return made


def fit(folder, *callbacks, fused=False, **arguments):
    history = History()
    trained = module(fused)
    toy.trainer(folder, [NonFiniteSteps(), *callbacks, history], **arguments).fit(trained, datamodule=toy.digits())
    return trained, history.states


def table(folder):
    with (folder / "nonfinite.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        pytest.param({}, math.nan, id="plain"),
        pytest.param({"fused": True}, math.inf, id="infinite"),
        pytest.param({"fused": True}, math.nan, id="fused"),
        pytest.param({"fused": True, "accumulate_grad_batches": 2}, math.nan, id="accumulated"),
        pytest.param({"fused": True, "gradient_clip_algorithm": "value"}, math.nan, id="clipped by value"),
        pytest.param({"fused": True, "precision": "bf16-mixed"}, math.nan, id="bf16-mixed"),
        pytest.param({"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}, math.nan, id="16-mixed"),
    ],
)
def test_a_skipped_step_changes_nothing_but_counts(tmp_path, poison, arguments, value):
    poison({3}, arguments.get("accumulate_grad_batches", 1) - 1, value)
    _, states = fit(tmp_path, **arguments, max_steps=6)
    for step in (1, 2, 4, 5):
        assert not equal(states[step - 1][0], states[step][0]), step
    assert equal(states[2][:2], states[3][:2])
    assert [lr for _, _, lr in states] == pytest.approx([1e-3 * (step + 2) / 10 for step in range(6)])
    assert all(value.isfinite().all() for weights, optimizer, _ in states for value in [*weights, *optimizer[0].values()])


def test_a_first_step_that_is_skipped_leaves_no_momentum_to_fused_sgd():
    weight = torch.nn.Parameter(torch.zeros(8))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.9, fused=True)
    for gradient, expected in ((math.nan, 0.0), (math.nan, 0.0), (1.0, -0.5), (math.nan, -0.5), (1.0, -1.45)):
        weight.grad = torch.full_like(weight, gradient)
        skip_if_nonfinite(optimizer, weight.grad.norm())
        optimizer.step()
        momenta = [each["momentum_buffer"] for each in optimizer.state.values()]
        assert weight.tolist() == pytest.approx([expected] * 8)
        assert all(momentum.isfinite().all() for momentum in momenta)
        assert bool(momenta) == (expected != 0)


def test_the_file_has_what_repeats_the_step(tmp_path, poison, caplog):
    poison({3})
    fit(tmp_path, TrainingLog(), max_steps=8)
    (row,) = table(tmp_path)
    order = EpochOrder(len(toy.digits().train_set), 32, 0)
    assert row["images"] == " ".join(map(str, order.indices(0)[3].tolist()))
    assert (row["step"], row["rank"], row["batch"], row["num_nonfinite"], row["loss"], row["grad_norm"]) == (
        "4",
        "0",
        "3",
        "1",
        "nan",
        "nan",
    )
    assert len(row["levels"].split()) == 32
    assert int(row["seed"]) > 0
    assert "step 4: skipped 1 step since the last look, whose loss or gradient was not finite" in caplog.text


def test_averages_of_figures_leave_it_out(tmp_path, poison):
    poison({2})
    log = TrainingLog()
    trained, _ = fit(tmp_path, log, max_steps=4)
    assert 0 < trained.figures["train/loss"] < 2
    assert 0 < trained.figures["train/grad_norm"] < 100
    assert trained.figures["train/num_nonfinite_steps"] == 1


@pytest.mark.parametrize("log_every_n_steps", [5, 100])
def test_a_trainer_of_ones_own_that_has_no_answer_does_not_train_on_in_silence(tmp_path, log_every_n_steps):
    diverging = toy.module(lr=1e30)
    trainer = toy.trainer(tmp_path, [TrainingLog()], max_steps=30, log_every_n_steps=log_every_n_steps)
    step = min(log_every_n_steps, 30)
    with pytest.raises(UserError, match=rf"^the loss or its gradient is not finite at step {step}: lower optimizer.lr"):
        trainer.fit(diverging, datamodule=toy.digits())


def test_gradients_that_a_scaler_has_made_infinite_are_left_to_it(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    toy.trainer(tmp_path, [TrainingLog()], max_steps=4, plugins=plugins).fit(toy.module(), datamodule=toy.digits())
    assert scaler.get_scale() < 2.0**127


@pytest.mark.parametrize("num_bad", [5, 42])
def test_gradients_that_are_nan_whatever_the_scale_end_a_run_that_has_no_answer(tmp_path, num_bad):
    """The loss is finite, so that only the factor of the GradScaler tells: after 30 halvings it is 6e-5."""
    trained = toy.module()
    trainer = toy.trainer(
        tmp_path,
        [TrainingLog()],
        max_steps=42,
        log_every_n_steps=10,
        plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))],
    )
    spoil = torch.tensor(math.nan)
    next(trained.parameters()).register_hook(lambda grad: grad * spoil if trainer.global_step < num_bad else grad)
    if num_bad == 5:
        trainer.fit(trained, datamodule=toy.digits())
        assert trainer.global_step == 42
    else:
        with pytest.raises(UserError, match=r"^the loss or its gradient is not finite at step 30: lower optimizer.lr"):
            trainer.fit(trained, datamodule=toy.digits())


def test_without_the_callback_the_run_ends_at_the_next_look_and_writes_no_file(tmp_path, command, poison):
    poison({8})
    words = runs.words(*QUIET, "trainer.max_steps=21", "callbacks.nonfinite=null", folder=tmp_path / "run")
    code, _, err = command("train", *words)
    assert (code, err.count("error:")) == (2, 1)
    assert "error: the loss or its gradient is not finite at step 14: lower optimizer.lr" in err
    assert not (tmp_path / "run" / "nonfinite.csv").exists()


def test_a_run_of_an_earlier_version_gets_the_callback(tmp_path, command, poison):
    poison({8})
    words = runs.words(*QUIET, "trainer.max_steps=10", "~callbacks.nonfinite", folder=tmp_path / "run")
    code, _, err = command("train", *words)
    assert code == 0, err
    assert len(table(tmp_path / "run")) == 1


def test_a_healthy_step_waits_for_no_device_and_neither_does_a_skipped_one(tmp_path, poison):
    """Nothing is fetched from the device between two looks, where the optimizer is fused."""
    poison({3})
    fetched = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
                fetched.append(str(func))
            return func(*args, **(kwargs or {}))

    class Watched(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if 0 < trainer.global_step < 5:
                self.mode = Watch()
                self.mode.__enter__()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if 1 < trainer.global_step <= 5:
                self.mode.__exit__(None, None, None)

    averages = EMA(0.9)
    trainer = toy.trainer(tmp_path, [averages, NonFiniteSteps(), Watched()], max_steps=6, log_every_n_steps=100)
    trainer.fit(module(fused=True), datamodule=toy.digits())
    assert trainer.global_step == 6
    assert fetched == []


def test_many_in_a_row_end_the_run_and_the_last_good_checkpoint_stays(tmp_path, poison, command):
    poison(range(13, 1000))
    words = runs.words(*QUIET, "trainer.max_steps=60", "callbacks.nonfinite.max_in_a_row=9", folder=tmp_path / "run")
    code, _, err = command("train", *words)
    assert code == 2
    last = [line for line in err.splitlines() if line.startswith("error")]
    assert last == [
        "error: the loss or its gradient was not finite in 15 steps in a row, at step 28: lower optimizer.lr, or set "
        "trainer.gradient_clip_val, or train with trainer.precision=32-true; run/nonfinite.csv has the batches"
    ]
    assert "Traceback" not in err
    assert runs.checkpoint(tmp_path / "run")["global_step"] == 20
    assert runs.checkpoint(tmp_path / "run", "last-1")["global_step"] == 10
    assert len(table(tmp_path / "run")) == 15


def test_stop_ends_the_run_at_once(tmp_path, poison):
    poison({2})
    with pytest.raises(UserError, match=r"^the loss or its gradient was not finite, at step 4: lower optimizer.lr"):
        toy.trainer(tmp_path, [NonFiniteSteps("stop")], max_steps=9).fit(module(), datamodule=toy.digits())


def test_a_run_goes_back_to_the_checkpoint_before_the_series_and_on_with_other_data(tmp_path, poison, command):
    """Steps 22 to 38 are bad; a run that is cut in between, where a checkpoint of the series is the last one, ends like the other."""
    poison(range(22, 39))
    words = [*runs.words(*QUIET), "callbacks.nonfinite.policy=rollback", "callbacks.nonfinite.max_in_a_row=12"]
    code, _, err = command("train", *words, "trainer.max_steps=50", "hydra.run.dir=uncut")
    assert code == 0, err
    assert (
        "step 35: the loss or its gradient was not finite in 13 steps in a row; weights, optimizer and averages are those of step 20"
        in err
    )
    code, _, err = command("train", *words, "trainer.max_steps=30", "hydra.run.dir=cut")
    assert code == 0, err
    assert [runs.checkpoint("cut", name)["global_step"] for name in ("last", "last-1")] == [30, 20]
    code, _, err = command("train", "resume=cut", "trainer.max_steps=50")
    assert code == 0, err
    uncut, resumed = runs.checkpoint("uncut"), runs.checkpoint("cut")
    assert uncut["global_step"] == resumed["global_step"] == 50
    for key in ("state_dict", "ema", "optimizer_states", "lr_schedulers"):
        assert equal(uncut[key], resumed[key]), key
    assert table(tmp_path / "uncut") == table(tmp_path / "cut")
    assert len(table(tmp_path / "cut")) == 17


def test_without_a_checkpoint_to_go_back_to_the_run_ends(tmp_path, poison):
    poison(range(100))
    trainer = toy.trainer(tmp_path, [NonFiniteSteps("rollback", max_in_a_row=2)], max_steps=9)
    with pytest.raises(UserError, match=r"in 2 steps in a row, and there is no checkpoint from before to go back to, at step 2"):
        trainer.fit(module(), datamodule=toy.digits())


def test_large_numbers_and_masks_are_finite_enough(tmp_path):
    made = module()
    trainer = toy.trainer(tmp_path)
    made.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    weight = next(made.parameters())
    weight.data.fill_(3e38)
    assert nonfinite_weight(trainer, made) is None
    weight.data.view(-1)[0] = -math.inf
    assert nonfinite_weight(trainer, made) == next(name for name, _ in made.named_parameters())
    weight.data.fill_(0)
    made.mask[0] = math.nan
    assert nonfinite_weight(trainer, made) == "mask"


class Spoil(Callback):
    """Makes a weight or an average infinite after some step."""

    def __init__(self, what):
        self.what = what

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            averages = trainer.callbacks[0]
            chosen = pl_module.parameters() if self.what == "weights" else averages.shadows[Exponential(0.5)].values()
            next(iter(chosen)).data.view(-1)[0] = math.inf


@pytest.mark.parametrize("what", ["weights", "averages"])
def test_weights_and_averages_that_are_not_finite_are_not_saved(tmp_path, caplog, what):
    callbacks = [EMA(0.9, more_decays=[0.5]), NonFiniteSteps(), Spoil(what), Checkpoints(2)]
    toy.trainer(tmp_path, callbacks, max_steps=6).fit(module(), datamodule=toy.digits())
    assert runs.checkpoint(tmp_path)["global_step"] == 2
    name = "" if what == "weights" else "the average (decay=0.5) of "
    assert f"step 4: no checkpoint is written, since {name}denoiser.network" in caplog.text
    assert "is not finite; earlier ones stay" in caplog.text


@pytest.mark.parametrize("num_steps", [2, 4])
def test_a_run_without_callbacks_whose_weights_are_not_finite_at_the_end_says_so(tmp_path, command, monkeypatch, num_steps):
    """The third step spoils them, and nobody looks at the fourth."""
    from alphabar.training import run

    build_callbacks = run.build_callbacks
    monkeypatch.setattr(run, "build_callbacks", lambda *arguments: [Spoil("weights"), *build_callbacks(*arguments)])
    words = runs.words(f"trainer.max_steps={num_steps}", folder=tmp_path / "run")
    code, _, err = command("train", "callbacks=null", *(word for word in words if not word.startswith("callbacks.")))
    if num_steps == 2:
        assert code == 0, err
        return
    assert (code, err.count("error:")) == (2, 1)
    assert "error: denoiser.network." in err
    assert " is not finite at the end, step 4: lower optimizer.lr" in err
    (start,) = json.loads((tmp_path / "run" / "receipt.json").read_text())["starts"]
    assert start["step"] == 4


def test_what_one_process_finds_all_skip(tmp_path):
    script = tmp_path / "poison.py"
    script.write_text(POISON_RANK_1.format(root=str(runs.ROOT)))
    words = runs.words(*QUIET, "trainer.max_steps=7", "trainer.accelerator=cpu", "trainer.devices=2", folder=tmp_path / "run")
    code, _, err = runs.run(str(script), *words, cwd=tmp_path)
    assert code == 0, err
    assert [(row["step"], row["rank"], row["num_nonfinite"]) for row in table(tmp_path / "run")] == [
        ("4", "0", "0"),
        ("4", "1", "32"),
    ]
    saved = runs.checkpoint(tmp_path / "run")
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert int(saved["optimizer_states"][0]["state"][0]["step"]) == 6


@pytest.mark.parametrize("value", [0, -1])
def test_a_series_has_a_length(value):
    with pytest.raises(ValueError, match="need max_in_a_row >= 1"):
        NonFiniteSteps(max_in_a_row=value)
