"""A state of training that no run has is refused before it is restored, in one line with its place."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

import runs
import toy
from alphabar.data.loading.loader import ImageBatches, ImageLoader
from alphabar.data.loading.order import EpochOrder
from alphabar.errors import UserError
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.modules.restored_state import must_be_training_state
from test_data_resume import numbered_images

ADAM = partial(torch.optim.Adam, lr=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the Trainer of a short run, the content of its checkpoint)"""
    folder = tmp_path_factory.mktemp("trained")
    trainer = toy.trainer(folder, [Checkpoints(2)], max_steps=2)
    trainer.fit(toy.module(warmup_steps=10), datamodule=toy.digits())
    return trainer, runs.checkpoint(folder)


def place_in(content, keys):
    """Returns the container of the last key, and that key."""
    *parents, last = [int(key) if key.isdecimal() else key for key in keys]
    for parent in parents:
        content = content[parent]
    return content, last


MISSING = object()
GROUP = ("optimizer_states", "0", "param_groups", "0")
STATE = ("optimizer_states", "0", "state", "0")
SCHEDULER = ("lr_schedulers", "0")
LOOP = ("loops", "fit_loop")
BATCHES = (*LOOP, "epoch_loop.batch_progress")
STATES = [
    (("optimizer_states",), MISSING, "has no optimizer_states"),
    (("optimizer_states",), [], "optimizer_states has 0 items, need 1"),
    (("optimizer_states",), [{}], "optimizer_states.0.state is missing"),
    (("optimizer_states", "0", "param_groups"), MISSING, "optimizer_states.0.param_groups is missing"),
    (("optimizer_states", "0", "param_groups"), {}, "param_groups is of type dict, need list"),
    (("optimizer_states", "0", "param_groups"), [3], "param_groups.0 is of type int, need dict"),
    ((*GROUP, "params"), [0], "param_groups.0.params has 1 items"),
    ((*GROUP, "params", "0"), 1, "param_groups.0.params are not the numbers of the parameters"),
    ((*GROUP, "lr"), MISSING, "param_groups.0.lr is missing"),
    ((*GROUP, "lr"), "x", "param_groups.0.lr is of type str, need int or float"),
    ((*GROUP, "lr"), float("nan"), "param_groups.0.lr is not finite"),
    ((*GROUP, "lr"), -1e-3, "param_groups.0.lr is negative (-0.001)"),
    ((*GROUP, "betas"), [0.9], "param_groups.0.betas has 1 items, need 2"),
    ((*GROUP, "betas"), "ab", "param_groups.0.betas is of type str, need list or tuple"),
    (("optimizer_states", "0", "state"), [], "state is of type list, need dict"),
    (("optimizer_states", "0", "state", "x"), {}, "state.x is of no parameter"),
    (("optimizer_states", "0", "state", "9999"), {}, "state.9999 is of no parameter"),
    (STATE, [], "state.0 is of type list, need dict"),
    ((*STATE, "exp_avg"), MISSING, "state.0.exp_avg is missing"),
    ((*STATE, "exp_avg"), "x", "state.0.exp_avg is of type str, need Tensor"),
    ((*STATE, "exp_avg"), torch.zeros(7), "state.0.exp_avg has the shape [7], need ["),
    ((*STATE, "exp_avg"), torch.Tensor.long, "state.0.exp_avg has the type torch.int64, need torch.float32"),
    ((*STATE, "exp_avg"), lambda old: old * float("nan"), "state.0.exp_avg is not finite"),
    ((*STATE, "exp_avg_sq"), lambda old: old * 0 - 1, "state.0.exp_avg_sq is negative (-1)"),
    ((*STATE, "step"), torch.tensor(-3.0), "state.0.step is negative (-3)"),
    ((*STATE, "step"), torch.zeros(2), "state.0.step has the shape [2], need []"),
    (("lr_schedulers",), MISSING, "has no lr_schedulers"),
    (("lr_schedulers",), [], "lr_schedulers has 0 items, need 1"),
    ((*SCHEDULER, "last_epoch"), MISSING, "lr_schedulers.0.last_epoch is missing"),
    ((*SCHEDULER, "last_epoch"), "x", "lr_schedulers.0.last_epoch is of type str, need int"),
    ((*SCHEDULER, "last_epoch"), -2, "lr_schedulers.0.last_epoch is negative (-2)"),
    ((*SCHEDULER, "base_lrs"), 1e-3, "lr_schedulers.0.base_lrs is of type float, need list"),
    ((*SCHEDULER, "base_lrs"), ["x"], "lr_schedulers.0.base_lrs.0 is of type str"),
    ((*SCHEDULER, "_step_count"), "x", "lr_schedulers.0._step_count is of type str, need int"),
    ((*SCHEDULER, "lr_lambdas"), ["x"], "lr_schedulers.0.lr_lambdas.0 is of type str, need NoneType"),
    (("loops",), MISSING, "has no loops"),
    (LOOP, MISSING, "loops.fit_loop is missing"),
    (BATCHES, MISSING, "loops.fit_loop.epoch_loop.batch_progress is missing"),
    ((*BATCHES, "total", "ready"), "x", "epoch_loop.batch_progress.total.ready is of type str, need int"),
    ((*BATCHES, "current", "ready"), -1, "epoch_loop.batch_progress.current.ready is negative (-1)"),
    ((*BATCHES, "is_last_batch"), "x", "is_last_batch is of type str, need bool"),
    ((*LOOP, "state_dict", "combined_loader"), 3, "combined_loader is of type int, need list"),
    ((*LOOP, "state_dict", "combined_loader"), [3], "combined_loader.0 is of type int, need dict"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value", "line"), STATES, ids=[line for *_, line in STATES])
def test_a_state_that_no_run_has_is_one_line(trained, keys, value, line):
    trainer, content = trained
    content = deepcopy(content)
    node, key = place_in(content, keys)
    if value is MISSING:
        del node[key]
    else:
        node[key] = value(node[key]) if callable(value) else value
    with pytest.raises(UserError) as caught:
        must_be_training_state(content, trainer, ADAM, "checkpoint last.ckpt")
    assert str(caught.value).startswith("checkpoint last.ckpt: ")
    assert line in str(caught.value)


def test_the_state_of_a_run_is_one_that_it_can_have(trained):
    trainer, content = trained
    must_be_training_state(content, trainer, ADAM, "checkpoint last.ckpt")


def test_a_state_of_a_grad_scaler(trained):
    trainer, content = trained
    name = type(trainer.precision_plugin).__qualname__
    with pytest.raises(UserError, match=rf"its {name} is of type int, need dict"):
        must_be_training_state({**content, name: 3}, trainer, ADAM, "checkpoint last.ckpt")


@pytest.mark.parametrize(
    "make_optimizer",
    [
        partial(torch.optim.Adam, lr=1e-3, amsgrad=True),
        partial(torch.optim.Adam, lr=1e-3, fused=True),
        partial(torch.optim.AdamW, lr=1e-3),
        partial(torch.optim.NAdam, lr=1e-3),
        partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
        partial(torch.optim.RMSprop, lr=1e-3, momentum=0.9, centered=True),
        partial(torch.optim.Adagrad, lr=1e-3),
        partial(torch.optim.Adafactor, lr=1e-3),
        partial(torch.optim.Rprop, lr=1e-3),
    ],
    ids=lambda make: f"{make.func.__name__} {make.keywords}",
)
def test_the_states_of_any_optimizer_are_known_by_a_trial(trained, make_optimizer):
    trainer, content = trained
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 3), nn.PReLU())
    optimizer = make_optimizer(network.parameters())
    for step in range(3):
        network(torch.randn(2, 1, 8, 8)).sum().mul((-1) ** step).backward()
        optimizer.step()
    saved = deepcopy(optimizer.state_dict())
    before, trainer.strategy.optimizers = trainer.strategy.optimizers, [make_optimizer(network.parameters())]
    try:
        must_be_training_state({**content, "optimizer_states": [saved]}, trainer, make_optimizer, "last.ckpt")
        for state in saved["state"].values():
            name = next(key for key, value in state.items() if value.dim() > 0)
            state[name] = torch.zeros(9, 9)
        with pytest.raises(UserError, match=r"state.0.\w+ has the shape"):
            must_be_training_state({**content, "optimizer_states": [saved]}, trainer, make_optimizer, "last.ckpt")
    finally:
        trainer.strategy.optimizers = before


ORDER = {"num_images": 45, "batch_size": 6, "seed": 3, "world_size": 1}


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({}, "data.num_batches is missing"),
        ({"num_batches": "x", "order": ORDER}, "data.num_batches is of type str, need int"),
        ({"num_batches": -1, "order": ORDER}, "data.num_batches is negative (-1)"),
        ({"num_batches": 4}, "data.order is missing"),
        ({"num_batches": 4, "order": [3]}, "data.order is of type list, need dict"),
        ({"num_batches": 4, "order": ORDER | {"batch_size": None}}, "data.order.batch_size is of type NoneType, need int"),
        ({"num_batches": 4, "order": ORDER | {"batch_size": 0}}, "data.order.batch_size is 0, need 1 or more"),
        ({"num_batches": 4, "order": ORDER | {"world_size": 0}}, "data.order.world_size is 0, need 1 or more"),
        ({"num_batches": 4, "order": ORDER | {"seed": "\x1b[2J"}}, "data.order.seed is of type str, need int"),
        ({"num_batches": 4, "order": {"batch_size": 6}}, "data.order.world_size is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_state_of_the_loader_that_none_has(state, line):
    loader = ImageLoader(ImageBatches(numbered_images()), EpochOrder(45, 6, 3), flip=False)
    with pytest.raises(UserError) as caught:
        loader.load_state_dict(state)
    assert str(caught.value) == f"checkpoint: its {line}"
    assert loader.num_batches_seen == 0


@pytest.mark.parametrize("lacking", [None, "num_images", "seed"])
def test_a_state_of_the_loader_that_it_has(lacking):
    """Those of earlier versions say less."""
    loader = ImageLoader(ImageBatches(numbered_images()), EpochOrder(45, 6, 3), flip=False)
    loader.load_state_dict({"num_batches": 4, "order": {key: value for key, value in ORDER.items() if key != lacking}})
    assert loader.num_batches_seen == 4
