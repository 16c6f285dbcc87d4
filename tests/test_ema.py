import pytest
import torch
from lightning.pytorch import Callback

import toy
from alphabar.training.callbacks.ema import EMA, averaged, trainable


class Weights(Callback):
    """Remembers the live weights after every optimizer step."""

    def __init__(self):
        self.history = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.history.append({name: value.detach().clone() for name, value in trainable(pl_module).items()})


def fit(tmp_path, ema, *others, **arguments):
    module = toy.module()
    trainer = toy.trainer(tmp_path, [ema, *others], **arguments)
    trainer.fit(module, datamodule=toy.digits())
    return trainer, module


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9999])
def test_the_average_has_its_closed_form(tmp_path, decay):
    start = {name: value.detach().clone() for name, value in trainable(toy.module()).items()}
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
    live = {name: value.detach().clone() for name, value in trainable(module).items()}
    storage = {name: value.data_ptr() for name, value in trainable(module).items()}

    def look_and_fail():
        with averaged(trainer, module):
            assert all(torch.equal(value, ema.shadow[name]) for name, value in trainable(module).items())
            assert not all(torch.equal(value, live[name]) for name, value in trainable(module).items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_and_fail()
    assert all(torch.equal(value, live[name]) for name, value in trainable(module).items())
    assert storage == {name: value.data_ptr() for name, value in trainable(module).items()}


def test_before_the_first_update_the_average_is_the_live_weights():
    ema, module = EMA(), toy.module()
    live = {name: value.detach().clone() for name, value in trainable(module).items()}
    with ema.applied(module):
        assert all(torch.equal(value, live[name]) for name, value in trainable(module).items())


def test_checkpoints_hold_live_weights_and_averages_apart(tmp_path):
    ema = EMA(0.5)
    trainer, module = fit(tmp_path, ema)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    saved = torch.load(tmp_path / "after.ckpt", weights_only=True)
    for name, value in trainable(module).items():
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
