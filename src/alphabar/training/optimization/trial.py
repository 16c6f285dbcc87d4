"""A trial of the optimizer and of its learning rate with one number, before a run has a folder."""

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from alphabar.config.foreign_code import explaining_foreign_errors
from alphabar.errors import UserError
from alphabar.training.optimization.lr_schedules import LRSchedule, MakeLRScheduler
from alphabar.training.optimization.optimizers import MakeOptimizer


def check_optimizer(make_optimizer: MakeOptimizer, schedule: LRSchedule | MakeLRScheduler | None) -> None:
    """Raises ConfigError for arguments that the optimizer or the scheduler refuses, and UserError for what is none of them.

    So it does for an optimizer that teaches nothing, or the worst.
    """
    parts = {"optimizer": make_optimizer, "lr_scheduler": schedule}
    with explaining_foreign_errors(parts, {}):
        optimizer: object = make_optimizer([nn.Parameter(torch.zeros(1))])
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer: need a torch.optim.Optimizer, got {type(optimizer).__name__}")
    (group,) = optimizer.param_groups
    if "lr" not in group:
        raise UserError(
            f"optimizer: need one with a learning rate lr, and {type(optimizer).__name__} has {', '.join(optimizer.defaults)}"
        )
    if group["lr"] == 0:
        raise UserError("optimizer.lr=0: nothing would be trained; need a number > 0")
    if group.get("maximize"):
        raise UserError("optimizer.maximize=true: the loss would be made as large as it can be; need false")
    if schedule is None or isinstance(schedule, LRSchedule):
        return
    try:
        with explaining_foreign_errors(parts, {}):
            scheduler: object = schedule(optimizer)
    except NotImplementedError as error:
        raise UserError("lr_scheduler: an interface was named: name one of its implementations") from error
    if not isinstance(scheduler, LRScheduler):
        raise UserError(f"lr_scheduler: need a torch.optim.lr_scheduler.LRScheduler, got {type(scheduler).__name__}")
