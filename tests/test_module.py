import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import OmegaConf
from torch import nn

import toy
from alphabar.data import Shape
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.objectives.denoising import Denoising
from alphabar.diffusion.objectives.weightings import MinSNR, UniformWeighting
from alphabar.diffusion.parameterizations import Epsilon, V, X
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.training.callbacks.samples import Samples


class Recorder(Callback):
    def __init__(self):
        self.losses, self.levels, self.rates = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.levels.append(outputs["levels"])
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(tmp_path, module, callbacks=(), **arguments):
    recorder = Recorder()
    toy.trainer(tmp_path, [recorder, *callbacks], **arguments).fit(module, datamodule=toy.digits())
    return recorder


def test_the_loss_of_ten_steps_is_pinned(tmp_path):
    losses = fit(tmp_path, toy.module(), max_steps=10).losses
    pinned = [1.007658, 1.018297, 1.008407, 0.989978, 0.937056, 0.975668, 0.875121, 0.883939, 0.93335, 0.846326]
    assert losses == pytest.approx(pinned, rel=1e-3)


def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path):
    first, second = (fit(tmp_path, toy.module(seed=1, dropout=0.5)).losses for _ in range(2))
    assert first == second
    assert fit(tmp_path, toy.module(seed=2, dropout=0.5)).losses != first


def test_every_step_draws_other_times(tmp_path):
    levels = fit(tmp_path, toy.module()).levels
    assert all(not torch.equal(levels[0], other) for other in levels[1:])


def test_the_loss_falls_on_one_fixed_batch():
    module = toy.module()
    images = toy.digits().train_set.images(range(16))
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        torch.manual_seed(0)
        loss = module.objective(module.denoiser, module.codec.encode(images)).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1.0, abs=0.1)  # a network of zero output predicts no noise at all
    assert losses[-1] < 0.35


def test_the_learning_rate_warms_up_linearly(tmp_path):
    rates = fit(tmp_path, toy.module(lr=1e-3, warmup_steps=4), max_steps=6).rates
    assert rates == pytest.approx([5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3, 1e-3])  # after each step: what the next one takes


def test_gradients_are_clipped_by_norm_and_the_norm_before_is_kept(tmp_path):
    class Norms(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if gradients:
                self.after = nn.utils.get_total_norm(gradients).item()

    norms, module = Norms(), toy.module()
    toy.trainer(tmp_path, [norms], gradient_clip_val=1e-3, max_steps=2).fit(module, datamodule=toy.digits())
    assert norms.after == pytest.approx(1e-3, rel=1e-2)
    assert module.grad_norm.item() > 1e-2


@pytest.mark.parametrize("parameterization", [Epsilon(), X(), V()], ids=["epsilon", "x", "v"])
def test_min_snr_equals_the_closed_form_of_the_paper(parameterization):
    """Hang et al. 2023: min(snr, 5) / snr for epsilon, min(snr, 5) for x, min(snr, 5) / (snr + 1) for v."""
    alpha, sigma = LinearSchedule()(torch.arange(1, 1001))
    alpha, sigma = alpha.double(), sigma.double()
    snr = (alpha / sigma) ** 2
    expected = {
        Epsilon: snr.clamp(max=5) / snr,
        X: snr.clamp(max=5),
        V: snr.clamp(max=5) / (snr + 1),
    }[type(parameterization)]
    weights = MinSNR(5.0).weight(alpha, sigma, parameterization.determinant(alpha, sigma))
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)


def test_the_objective_is_the_squared_error_of_the_noise():
    class Zero(nn.Module):
        def forward(self, x, label, cond=None):
            return torch.zeros_like(x)

    torch.manual_seed(0)
    x = torch.zeros(10_000, 4)
    terms = Denoising(UniformWeighting())(NetworkDenoiser(Zero(), LinearSchedule(), Epsilon()), x)
    assert terms.loss.shape == (10_000,)
    assert terms.loss.mean().item() == pytest.approx(1.0, abs=0.02)  # E |eps|^2 of a dimension
    assert terms.level.mean().item() == pytest.approx(0.5, abs=0.01)


def test_accumulated_gradients_take_other_noise_for_every_part(tmp_path):
    recorder = fit(tmp_path, toy.module(), max_steps=2, accumulate_grad_batches=2)
    assert len(recorder.levels) == 4
    assert not torch.equal(recorder.levels[0], recorder.levels[1])


class Remembers(nn.Module):
    """A network with a frozen part, and with all that a forward pass may change."""

    def __init__(self):
        super().__init__()
        self.frozen, self.norm = nn.BatchNorm2d(1).eval(), nn.BatchNorm2d(1)
        self.scale = nn.Parameter(torch.zeros(1))
        self.conv = nn.Conv2d(1, 1, 1)
        self.computed = 2 * self.conv.weight  # no leaf, as torch.nn.utils.weight_norm keeps one
        self.calls = []

    def forward(self, x, label, cond=None):
        self.calls.append(len(x))
        type(self).seen.add((self.training, self.frozen.training))
        if len(self.calls) == 1:
            self.scale.data.fill_(1 + x.std())
        return nn.functional.dropout(self.scale * self.conv(self.norm(self.frozen(x))), training=self.training)


def test_trials_change_neither_the_network_nor_random_states(monkeypatch):
    monkeypatch.setattr(Remembers, "seen", set(), raising=False)
    module = toy.module(net=Remembers())
    network, before = module.denoiser.network, copy_of_state(module)
    module.attach_data(toy.digits())
    config = OmegaConf.create({"resume": None, "guidance": None, "sampler": {"_target_": "alphabar.diffusion.samplers.ddim.DDIM"}})
    module.check_config(config, Shape(1, 8, 8))
    assert Remembers.seen == {(True, False), (False, False)}
    assert network.calls == []
    torch.testing.assert_close(copy_of_state(module), before, rtol=0, atol=0)


def copy_of_state(module):
    """Weights, buffers, modes, hooks and the state of torch's generator."""
    parts = [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()]
    return {name: each.clone() for name, each in module.state_dict().items()}, parts, torch.get_rng_state()


@pytest.mark.filterwarnings("ignore:Found 1 module:lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_what_is_frozen_stays_so_in_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(Remembers, "seen", set(), raising=False)
    module = toy.module(net=Remembers())
    samples = Samples(DDIM(num_steps=2), 0, 4, every_n_steps=1)
    fit(tmp_path, module, max_steps=2, callbacks=[samples])
    assert Remembers.seen == {(True, False), (False, False)}
