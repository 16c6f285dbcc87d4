"""Averages of the weights while training: what they are, in checkpoints and snapshots, and that they go on where they stopped."""

import pytest
import torch
from lightning.pytorch import Callback

import runs
import toy
from alphabar.runs.ema import posthoc
from alphabar.runs.ema.profiles import gamma_of
from alphabar.training.callbacks.snapshots import Snapshots
from alphabar.training.ema import EMA, PowerEMA, averaged_weights, trainable_parameters


class Weights(Callback):
    """Remembers the live weights after every optimizer step."""

    def __init__(self):
        self.history = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.history.append({name: value.detach().clone() for name, value in trainable_parameters(pl_module).items()})


def fit(tmp_path, ema, *others, path=None, **arguments):
    module = toy.module()
    trainer = toy.trainer(tmp_path, [ema, *others], **arguments)
    trainer.fit(module, datamodule=toy.digits(), ckpt_path=path, weights_only=True)
    return trainer, module


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9999])
def test_the_average_has_its_closed_form(tmp_path, decay):
    start = {name: value.detach().clone() for name, value in trainable_parameters(toy.module()).items()}
    ema, weights = EMA(decay), Weights()
    fit(tmp_path, ema, weights, max_steps=5)
    assert ema.num_updates == 5
    for name, average in ema.shadow.items():
        expected = start[name].double()
        for n, step in enumerate(weights.history, start=1):
            d = min(decay, (1 + n) / (10 + n))
            expected = d * expected + (1 - d) * step[name].double()
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-7)


def test_only_trainable_parameters_are_averaged(tmp_path):
    ema = EMA()
    _, module = fit(tmp_path, ema)
    assert ema.shadow.keys() == {name for name, _ in module.named_parameters()}
    assert not any("alpha_bar" in name or "betas" in name for name in ema.shadow)


def test_accumulated_batches_count_once(tmp_path):
    ema = EMA()
    fit(tmp_path, ema, max_steps=2, accumulate_grad_batches=2)
    assert ema.num_updates == 2


def test_weights_are_swapped_inside_and_come_back_even_from_an_exception(tmp_path):
    ema = EMA(0.5)
    trainer, module = fit(tmp_path, ema)
    live = {name: value.detach().clone() for name, value in trainable_parameters(module).items()}
    storage = {name: value.data_ptr() for name, value in trainable_parameters(module).items()}

    def look_and_fail():
        with averaged_weights(trainer, module):
            assert all(torch.equal(value, ema.shadow[name]) for name, value in trainable_parameters(module).items())
            assert not all(torch.equal(value, live[name]) for name, value in trainable_parameters(module).items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_and_fail()
    assert all(torch.equal(value, live[name]) for name, value in trainable_parameters(module).items())
    assert storage == {name: value.data_ptr() for name, value in trainable_parameters(module).items()}


def test_before_the_first_update_the_average_is_the_live_weights():
    ema, module = EMA(), toy.module()
    live = {name: value.detach().clone() for name, value in trainable_parameters(module).items()}
    with ema.applied(module):
        assert all(torch.equal(value, live[name]) for name, value in trainable_parameters(module).items())


def test_checkpoints_hold_live_weights_and_averages_apart(tmp_path):
    ema = EMA(0.5)
    trainer, module = fit(tmp_path, ema)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    saved = torch.load(tmp_path / "after.ckpt", weights_only=True)
    for name, value in trainable_parameters(module).items():
        assert torch.equal(saved["state_dict"][name], value)
        assert torch.equal(saved["ema"]["weights"][name], ema.shadow[name])
    assert saved["ema"]["num_updates"] == 4


def test_an_average_goes_on_where_it_stopped(tmp_path):
    straight, first, second = EMA(0.5), EMA(0.5), EMA(0.5)
    fit(tmp_path / "a", straight, max_steps=6)
    trainer, _ = fit(tmp_path / "b", first, max_steps=3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    trainer = toy.trainer(tmp_path / "c", [second], max_steps=6)
    trainer.fit(toy.module(), datamodule=toy.digits(), ckpt_path=tmp_path / "three.ckpt", weights_only=True)
    assert second.num_updates == 6
    assert all(torch.equal(second.shadow[name], average) for name, average in straight.shadow.items())


def test_a_bfloat16_module_has_a_float32_average():
    module, ema = toy.module().to(torch.bfloat16), EMA()
    ema.on_fit_start(None, module)
    assert {value.dtype for value in ema.shadow.values()} == {torch.float32}


def test_a_checkpoint_without_averages_is_refused_in_one_line(tmp_path):
    trainer = toy.trainer(tmp_path)
    trainer.fit(toy.module(), datamodule=toy.digits())
    trainer.save_checkpoint(tmp_path / "raw.ckpt")
    with pytest.raises(ValueError, match=r"^ema: the checkpoint has no averaged weights.*callbacks.ema=null"):
        toy.trainer(tmp_path, [EMA()], max_steps=6).fit(
            toy.module(), datamodule=toy.digits(), ckpt_path=tmp_path / "raw.ckpt", weights_only=True
        )


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"need 0 <= decay < 1, got decay="):
        EMA(decay)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_several_averages_are_what_each_would_be_alone(tmp_path):
    several = EMA(0.5, more_decays=[0.1, 0.9])
    fit(tmp_path / "several", several)
    for decay, average in zip((0.5, 0.1, 0.9), several.shadows.values(), strict=True):
        alone = EMA(decay)
        fit(tmp_path / str(decay), alone)
        assert equal(average, alone.shadow)
    assert equal(several.shadow, next(iter(several.shadows.values())))


@pytest.mark.parametrize("length", [0.05, 0.2])
def test_a_power_average_has_its_closed_form(tmp_path, length):
    """sum over k of ((k / t)^(gamma + 1) - ((k - 1) / t)^(gamma + 1)) * weights_k: nothing is left of the start."""
    ema, weights = PowerEMA([0.1, length]), Weights()
    fit(tmp_path, ema, weights, max_steps=6)
    shares = (torch.arange(7, dtype=torch.float64) / 6).pow(gamma_of(length) + 1).diff()
    for name, average in list(ema.shadows.values())[1].items():
        expected = sum(share * step[name].double() for share, step in zip(shares, weights.history, strict=True))
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-7)


def test_snapshots_are_written_every_so_many_steps_and_at_the_end(tmp_path):
    ema = PowerEMA([0.05, 0.1])
    fit(tmp_path, ema, Snapshots(3), max_steps=7, accumulate_grad_batches=2)
    assert runs.checkpoints(tmp_path) == ["ema/step_0000003.ckpt", "ema/step_0000006.ckpt", "ema/step_0000007.ckpt"]
    saved = torch.load(tmp_path / "ema" / "step_0000007.ckpt", weights_only=True)["ema"]
    assert saved["num_updates"] == 7
    assert [record["sigma_rel"] for record in saved["averages"]] == [0.05, 0.1]
    assert all(equal(record["weights"], shadow) for record, shadow in zip(saved["averages"], ema.shadows.values(), strict=True))


def test_exponential_averages_have_no_snapshots(tmp_path):
    fit(tmp_path / "exponential", EMA(), Snapshots(1))
    fit(tmp_path / "none", Snapshots(1))
    assert runs.checkpoints(tmp_path) == []


def test_a_run_that_is_taken_up_has_the_averages_and_snapshots_of_one_that_was_not_stopped(tmp_path):
    """12 steps with a snapshot every 3, and 8 steps with a checkpoint at 4 that 8 more follow: 6 and 8 are made again."""
    straight, first, second = PowerEMA([0.05, 0.1]), PowerEMA([0.05, 0.1]), PowerEMA([0.05, 0.1])
    fit(tmp_path / "a", straight, Snapshots(3), max_steps=12)
    trainer, _ = fit(tmp_path / "b", first, Snapshots(3), max_steps=4)
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    for ema, max_steps in ((PowerEMA([0.05, 0.1]), 8), (second, 12)):
        trainer = toy.trainer(tmp_path / "b", [ema, Snapshots(3)], max_steps=max_steps)
        trainer.fit(toy.module(), datamodule=toy.digits(), ckpt_path=tmp_path / "four.ckpt", weights_only=True)
    assert runs.checkpoints(tmp_path / "a") == [f"ema/step_{step:07d}.ckpt" for step in (3, 6, 9, 12)]
    assert runs.checkpoints(tmp_path / "b") == [
        *[f"ema/step_{step:07d}.ckpt" for step in (3, 4, 6, 9, 12)],
        *[f"ema_replaced/step_{step:07d}.ckpt" for step in (6, 8)],
    ]
    assert all(equal(second.shadows[profile], average) for profile, average in straight.shadows.items())
    for step in (3, 6, 9, 12):
        one, other = (torch.load(posthoc.snapshot_path(tmp_path / run, step), weights_only=True)["ema"] for run in "ab")
        for mine, its in zip(one["averages"], other["averages"], strict=True):
            assert mine["sigma_rel"] == its["sigma_rel"]
            assert equal(mine["weights"], its["weights"])


def test_a_snapshot_is_not_overwritten(tmp_path):
    path = posthoc.snapshot_path(tmp_path, 2)
    path.parent.mkdir()
    path.write_text("mine")
    snapshots = Snapshots(2)
    snapshots.on_train_start = lambda *_: None  # which would set it aside
    fit(tmp_path, PowerEMA([0.1]), snapshots, max_steps=2)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        (EMA(0.5), EMA(0.9)),
        (EMA(0.5), EMA(0.5, [0.9])),
        (EMA(0.5), PowerEMA([0.1])),
        (PowerEMA([0.1, 0.05]), PowerEMA([0.05, 0.1])),
    ],
)
def test_averages_do_not_go_on_as_others(tmp_path, saved, resumed):
    trainer, _ = fit(tmp_path, saved, max_steps=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(
        ValueError, match=r"^ema: the checkpoint has averages with .*, they cannot go on with .*callbacks.ema=null$"
    ):
        fit(tmp_path, resumed, max_steps=2, path=tmp_path / "one.ckpt")


def test_averages_of_unknown_profiles_are_not_resumed(tmp_path):
    trainer, _ = fit(tmp_path, EMA(0.5), max_steps=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)
    del saved["ema"]["averages"]
    torch.save(saved, tmp_path / "two.ckpt")
    with pytest.raises(
        ValueError, match=r"^ema: the checkpoint has averages with unknown settings, they cannot go on with decay=0.5; "
    ):
        fit(tmp_path, EMA(0.5), max_steps=4, path=tmp_path / "two.ckpt")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: EMA(0.9, [0.99, 0.9]), "need different decays, got 0.9, 0.99, 0.9"),
        (lambda: EMA(0.9, [1.5]), "need 0 <= decay < 1, got decay=1.5"),
        (lambda: PowerEMA([]), "need lengths, such as lengths=[0.05, 0.1], got none"),
        (lambda: PowerEMA([0.1, 0.1]), "need different lengths, got 0.1, 0.1"),
        (lambda: PowerEMA([0.3]), "need 0 < length <= 0.28868, that of the plain mean, got 0.3"),
        (lambda: Snapshots(0), "need every_n_steps >= 1, got every_n_steps=0"),
    ],
)
def test_what_cannot_be_averaged_is_refused(make, complaint):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == complaint


def test_a_real_run_has_the_averages_that_are_reconstructed(tmp_path):
    """100 steps, a snapshot of 0.05 and 0.1 every 4; a miss is over the distance of the true average from the live weights."""
    bounds = {0.03: 0.05, 0.07: 0.01, 0.15: 0.01, 0.2: 0.02}
    ema = PowerEMA([0.05, 0.1, *bounds])
    _, module = fit(tmp_path, ema, Snapshots(4), max_steps=100)
    contents = [torch.load(path, weights_only=True) for path in posthoc.snapshots(tmp_path).values()]
    kept = [average for content in contents for average in posthoc.stored_averages(content) if average.length not in bounds]
    live = {name: weight.detach() for name, weight in trainable_parameters(module).items()}
    for (length, largest), true in zip(bounds.items(), list(ema.shadows.values())[2:], strict=True):
        made = posthoc.reconstruct(kept, length, 100)
        miss, distance = (sum(float((one[name] - true[name]).square().sum()) for name in true) for one in (made, live))
        assert (miss / distance) ** 0.5 < largest
