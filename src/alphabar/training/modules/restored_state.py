"""The state of training in a checkpoint, which has to be one that the run could have come to."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from alphabar.errors import UserError
from alphabar.runs.checkpoints.restored import must_be_like
from alphabar.training.optimization.optimizers import MakeOptimizer


def must_be_training_state(checkpoint: Mapping[str, Any], trainer: Trainer, make_optimizer: MakeOptimizer, name: str) -> None:
    """Raises UserError unless the optimizers, schedulers and loops in a checkpoint have the states of those of the Trainer.

    What they have at the beginning, and after one step, shows what there has to be. To be called before they are restored.
    name: the file in messages.
    """
    place = f"{name}: its "
    schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    optimizers = trainer.optimizers
    example: dict[str, Any] = {
        "optimizer_states": [{} for _ in optimizers],
        "lr_schedulers": [{} for _ in schedulers],
        "loops": {"fit_loop": trainer.fit_loop.state_dict()},
    }
    for key, value in example.items():
        if key not in checkpoint:
            raise UserError(f"{name}: has no {key}, so that no run can go on from it")
        must_be_like(checkpoint[key], value, f"{place}{key}")
    loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [{}])
    must_be_like(loaders, [{}], f"{place}loops.fit_loop.state_dict.combined_loader")
    for index, (own, saved) in enumerate(zip(schedulers, checkpoint["lr_schedulers"], strict=True)):
        # Those that begin with _ are not in the files of every version of torch.
        needed = {key: value for key, value in own.items() if key in saved or not key.startswith("_")}
        must_be_like(saved, needed, f"{place}lr_schedulers.{index}")
    for index, (optimizer, saved) in enumerate(zip(optimizers, checkpoint["optimizer_states"], strict=True)):
        _must_be_state_of(optimizer, saved, make_optimizer, f"{place}optimizer_states.{index}")
    precision = type(trainer.precision_plugin).__qualname__
    if precision in checkpoint:
        must_be_like(checkpoint[precision], trainer.precision_plugin.state_dict(), f"{place}{precision}")


def _must_be_state_of(optimizer: Optimizer, saved: dict[str, Any], make_optimizer: MakeOptimizer, name: str) -> None:
    """Raises UserError unless a saved state is one of the optimizer; a parameter may have none, as before its first step."""
    own_groups = optimizer.state_dict()["param_groups"]
    must_be_like(saved, {"state": {}, "param_groups": [{"params": group["params"]} for group in own_groups]}, name)
    for index, (group, own) in enumerate(zip(saved["param_groups"], own_groups, strict=True)):
        place = f"{name}.param_groups.{index}"
        if list(group["params"]) != own["params"]:
            raise UserError(f"{place}.params are not the numbers of the parameters of this network")
        must_be_like(_completed(group, make_optimizer) | {"params": own["params"]}, own, place)
    parameters = [(index, each) for index, group in enumerate(optimizer.param_groups) for each in group["params"]]
    examples: dict[tuple[int, torch.Size, torch.dtype], dict[str, Any]] = {}
    for number, state in saved["state"].items():
        if not isinstance(number, int) or not 0 <= number < len(parameters):
            raise UserError(f"{name}.state.{number} is of no parameter of this network")
        index, parameter = parameters[number]
        kind = index, parameter.shape, parameter.dtype
        if kind not in examples:
            examples[kind] = _state_after_a_step(parameter, optimizer.param_groups[index], make_optimizer)
        must_be_like(state, examples[kind], f"{name}.state.{number}")


def _completed(group: dict[str, Any], make_optimizer: MakeOptimizer) -> dict[str, Any]:
    """Returns the settings of a saved group with those that an optimizer adds to the files of earlier versions of torch."""
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))])
    optimizer.load_state_dict({"state": {}, "param_groups": [{**group, "params": [0]}]})
    return optimizer.param_groups[0]


def _state_after_a_step(like: Tensor, group: dict[str, Any], make_optimizer: MakeOptimizer) -> dict[str, Any]:
    """Returns the state of an optimizer for such a parameter of a group after a step with gradients of both signs.

    So what stays non-negative, such as a mean of squares, is so in every state. The first number of the parameter is negative all
    the way: a state that follows the parameter or its gradient may be.
    """
    parameter = nn.Parameter(torch.full(like.shape, -1.0, dtype=like.dtype))
    gradient = torch.ones_like(parameter)
    gradient.view(-1)[:1] = -1
    parameter.grad = gradient
    optimizer = make_optimizer([{**group, "params": [parameter]}])  # type: ignore[list-item]
    optimizer.step()
    state: dict[str, Any | Tensor] = optimizer.state[parameter]
    return state
