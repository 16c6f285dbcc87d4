"""Optimizers by groups of parameters: what decays, what Muon changes, and that both go on as they were."""

import pytest
import torch
from torch import nn

import runs
import toy
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.optimization.optimizers import GroupedAdamW, MuonWithAdamW
from test_resume import equal


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3), nn.Embedding(5, 16), nn.Linear(16, 8))


@pytest.mark.parametrize(
    ("decay_all", "spared"), [(False, ["0.bias", "1.weight", "1.bias", "2.bias", "3.weight", "4.bias"]), (True, [])]
)
def test_norms_biases_and_embeddings_do_not_decay(decay_all, spared):
    module = layers()
    names = {parameter: name for name, parameter in module.named_parameters()}
    made = GroupedAdamW(weight_decay=0.1, decay_all=decay_all)
    groups = made(made.groups(module)).param_groups
    assert [names[each] for group in groups if group["weight_decay"] == 0 for each in group["params"]] == spared
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_muon_changes_weights_of_hidden_layers_as_that_of_torch_does_and_adamw_the_rest():
    module, other = layers(), layers()
    made = MuonWithAdamW(lr=0.01, weight_decay=0.1)
    optimizer = made(made.groups(module))
    matrices = [nn.Parameter(other[2].weight.detach().view(16, -1)), other[4].weight]
    rest = [other[0].weight]
    spared = [other[0].bias, other[1].weight, other[1].bias, other[2].bias, other[3].weight, other[4].bias]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([{"params": rest}, {"params": spared, "weight_decay": 0.0}], lr=0.01, weight_decay=0.1)
    for step in range(3):
        torch.manual_seed(step)
        for own, theirs in zip(module.parameters(), other.parameters(), strict=True):
            own.grad = theirs.grad = torch.randn_like(own)
        matrices[0].grad = other[2].weight.grad.view(16, -1)
        for each in (optimizer, muon, adamw):
            each.step()
    assert all(torch.equal(own, theirs) for own, theirs in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("make", [GroupedAdamW(1e-3, 0.1), MuonWithAdamW(1e-3, 0.1)], ids=lambda make: type(make).__name__)
def test_a_resumed_run_ends_like_an_uncut_one(tmp_path, make):
    def fit(folder, max_steps, resumed=False):
        module = toy.module(warmup_steps=2)
        module.make_optimizer = make
        trainer = toy.trainer(folder, [Checkpoints(2)], max_steps=max_steps)
        path = folder / "checkpoints" / "last.ckpt" if resumed else None
        trainer.fit(module, datamodule=toy.digits(), ckpt_path=path, weights_only=True)
        return {**module.state_dict()}, trainer.optimizers[0].state_dict()

    uncut = fit(tmp_path / "uncut", 5)
    fit(tmp_path / "cut", 3)
    assert equal(fit(tmp_path / "cut", 5, resumed=True), uncut)


@pytest.mark.parametrize("choice", ["adamw", "muon", "sgd"])
def test_every_choice_trains_and_goes_on(command, choice):
    words = ("callbacks.fid=null", "callbacks.samples=null", "callbacks.film=null", "callbacks.curves=null", f"optimizer={choice}")
    tiny = [word for word in runs.TINY if not word.startswith(("callbacks.fid", "callbacks.samples", "callbacks.film"))]
    code, _, err = command("train", *runs.words(*words, "trainer.max_steps=2", folder="out", tiny=tiny))
    assert code == 0, err
    code, _, err = command("train", "resume=out", "trainer.max_steps=3")
    assert (code, err) == (0, "")
