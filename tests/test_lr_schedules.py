"""The learning rate over the steps of a run: its closed form, on resume, after kills, and by the names of torch."""

import math
import signal
from functools import partial

import pytest
import torch

import runs
import toy
from alphabar.config.former_names import upgrade_config
from alphabar.errors import UserError
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.validation import ValidationHooks
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.optimization.lr_schedules import ConstantRate, CosineRate, InverseSqrtRate, LinearRate, PlateauRate, StepRate
from alphabar.training.optimization.trial import check_optimizer
from test_resume import CRASH, equal

CLOSED = {
    "cosine": (CosineRate(num_steps=10), lambda t: (1 + math.cos(math.pi * min(t, 10) / 10)) / 2),
    "cosine of the run": (CosineRate(), lambda t: (1 + math.cos(math.pi * t / 12)) / 2),
    "linear": (LinearRate(2, 10, 0.1), lambda t: min((t + 1) / 2, 1.0) * (0.1 + 0.9 * (1 - min(max(t - 2, 0) / 8, 1)))),
    "inverse_sqrt": (InverseSqrtRate(3, 4), lambda t: min((t + 1) / 3, 1.0) / math.sqrt(max(t / 4, 1))),
    "step": (StepRate(0, 3, 0.5), lambda t: 0.5 ** (t // 3)),
    "constant": (ConstantRate(4), lambda t: min((t + 1) / 4, 1.0)),
}
FALLING = (5.0, 4.0, 4.5, 4.25, 4.125, 4.0, 3.0, 3.5, 3.25, 3.125, 3.0625, 3.0)  # a figure after each step


class Rates(Recurring):
    """Notes the learning rate with which each step was made, and measures a figure after it."""

    def __init__(self):
        super().__init__(1)
        self.rates = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates[trainer.global_step] = [group["lr"] for group in trainer.optimizers[0].param_groups]

    def act(self, trainer, pl_module, is_last):
        if trainer.global_step <= len(FALLING):
            log_figures(trainer, {"held_out/loss": FALLING[trainer.global_step - 1]})


def rates(folder, schedule, max_steps=12, resumed=False):
    """The learning rate of each step by its number, and the trainer."""
    noted, module = Rates(), toy.module()
    module.lr_scheduler = schedule
    module.config = {"trainer": {"max_steps": max_steps}}
    trainer = toy.trainer(folder, [noted, ValidationHooks(), Checkpoints(4)], max_steps=max_steps)
    path = folder / "checkpoints" / "last.ckpt" if resumed else None
    trainer.fit(module, datamodule=toy.digits(), ckpt_path=path, weights_only=True)
    return {step: each[0] for step, each in noted.rates.items()}, trainer


@pytest.mark.parametrize(("schedule", "factor"), CLOSED.values(), ids=CLOSED)
def test_the_rate_of_each_step_is_its_closed_form(tmp_path, schedule, factor):
    found, _ = rates(tmp_path, schedule)
    assert found == {step: pytest.approx(1e-3 * factor(step), abs=1e-12) for step in range(12)}


TORCH = {
    "exponential": partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
    "cosine": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=12),
    "milestones": partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[3, 8]),
    "one cycle": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-2, total_steps=12),
}


@pytest.mark.parametrize("schedule", [CosineRate(2), PlateauRate(patience=1), *TORCH.values()], ids=["ours", "plateau", *TORCH])
def test_a_resumed_run_has_the_rates_of_an_uncut_one(tmp_path, schedule):
    uncut, trainer = rates(tmp_path / "uncut", schedule)
    rates(tmp_path / "cut", CosineRate(2, 12) if isinstance(schedule, CosineRate) else schedule, max_steps=6)
    resumed, other = rates(tmp_path / "cut", schedule, resumed=True)
    assert resumed == {step: rate for step, rate in uncut.items() if step >= 6}
    assert equal(trainer.optimizers[0].state_dict(), other.optimizers[0].state_dict())
    assert len(set(uncut.values())) > 2


def test_a_plateau_halves_the_rate_and_counts_measurements(tmp_path):
    """The second value that is no better than 4.0 comes after step 4, and 3.0 is better."""
    found, trainer = rates(tmp_path, PlateauRate(patience=1))
    assert [found[step] / 1e-3 for step in range(12)] == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.0625]
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr() == [group["lr"] for group in trainer.optimizers[0].param_groups]


def test_a_figure_that_is_not_measured_is_told_of(tmp_path, caplog):
    rates(tmp_path, PlateauRate(monitor="held_out/los"), max_steps=2)
    assert any("PlateauScheduler waits for monitor=held_out/los" in line for line in caplog.messages)


def test_a_longer_run_stretches_the_fall_and_says_so(tmp_path, caplog):
    rates(tmp_path, CosineRate(), max_steps=6)
    caplog.clear()
    found, _ = rates(tmp_path, CosineRate(), resumed=True)
    assert found[6] == pytest.approx(1e-3 * 0.5)
    (line,) = (message for message in caplog.messages if "lr_scheduler" in message)
    assert line.endswith("until step 12 now, not until 6: at step 6 it is 0.5 of its value, not 0")


def test_two_processes_that_are_killed_go_on_with_their_rates(tmp_path):
    words = runs.words(
        *(
            "trainer.accelerator=cpu",
            "trainer.devices=2",
            "trainer.max_steps=8",
            "lr_scheduler=cosine",
            "trainer.log_every_n_steps=1",
        ),
        *runs.BRIEF[1:],
        *("callbacks.held_out_loss=null", "callbacks.checkpoints.every_n_steps=3"),
        tiny=[word for word in runs.TINY if not word.startswith(("callbacks.", "trainer.log"))],
    )
    code, _, err = runs.run(CRASH, *words, "hydra.run.dir=cut", cwd=tmp_path, env={"CRASH": f"{int(signal.SIGKILL)} 5 0"})
    assert code == -9, err
    code, _, err = runs.run("train.py", "resume=cut", cwd=tmp_path)
    assert code == 0, err
    found = [float(row["train/lr"]) for row in runs.table(tmp_path / "cut" / "metrics.csv") if row["train/lr"]]
    cosine = CosineRate(3)  # each row has the rate of the step that follows
    assert found == [pytest.approx(1e-3 * cosine.warmup(step) * cosine.factor(step, 8), abs=1e-10) for step in range(1, 9)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["module.warmup_steps=3"],
            "error: module.warmup_steps=3: there is no key module.warmup_steps. Did you mean lr_scheduler.warmup_steps=3?",
        ),
        (
            ["lr_scheduler=cosine", "lr_scheduler.num_steps=2"],
            "error: lr_scheduler: need num_steps > warmup_steps=100, got num_steps=2",
        ),
        (
            ["lr_scheduler=cosine", "trainer.max_steps=-1", "+trainer.max_epochs=-1"],
            "error: lr_scheduler: nobody knows when this run ends",
        ),
        (
            ["lr_scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "+lr_scheduler._partial_=true"],
            "error: lr_scheduler: ReduceLROnPlateau",
        ),
        (["lr_scheduler._target_=torch.nn.Identity", "+lr_scheduler._partial_=true"], "error: lr_scheduler: expected "),
        (["lr_scheduler._target_=torch.nn.ReLU"], "error: lr_scheduler: expected "),
        (
            ["lr_scheduler._target_=torch.optim.lr_scheduler.LRScheduler", "+lr_scheduler._partial_=true"],
            "error: lr_scheduler: an interface was named: name one of its implementations",
        ),
        (["lr_scheduler=cosin"], "error: lr_scheduler=cosin: no such choice. Did you mean cosine?"),
    ],
)
def test_bad_input_is_one_line(command, words, line):
    code, _, err = command("train", "logger=csv", "callbacks=null", "network.base_channels=8", "network.norm_groups=4", *words)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert err.startswith(line)


def test_the_warm_up_of_an_earlier_version_is_that_of_its_run():
    node = {"_target_": "alphabar.training.optimization.lr_schedules.ConstantRate", "warmup_steps": 7}
    old = {"module": {"_target_": "alphabar.training.module.DiffusionModule", "warmup_steps": 7}, "seed": 0}
    target = "alphabar.training.modules.diffusion.DiffusionModule"
    assert upgrade_config(old) == {"seed": 0, "lr_scheduler": node, "module": {"_target_": target, "lr_scheduler": node}}


@pytest.mark.parametrize(
    ("make_optimizer", "schedule", "message"),
    [
        (lambda parameters: 3, None, "optimizer: need a torch.optim.Optimizer, got int"),
        (torch.optim.SGD, lambda optimizer: optimizer, "lr_scheduler: need a torch.optim.lr_scheduler.LRScheduler, got SGD"),
    ],
)
def test_what_makes_neither_optimizer_nor_scheduler_is_refused(make_optimizer, schedule, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        check_optimizer(make_optimizer, schedule)
