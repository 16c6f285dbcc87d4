"""What the processes of a run do together; with one process, nothing."""

import atexit
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from alphabar.errors import UserError

T = TypeVar("T")


def rank_and_size() -> tuple[int, int]:
    """(This process's rank, the number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def from_first(work: Callable[[], T]) -> T:
    """What `work` returns on the first process, on all of them.

    What it raises, all of them raise: nobody waits for a process that failed. The result travels between the processes, so that
    it need not lie in a folder that all machines share.
    """
    rank, world_size = rank_and_size()
    if world_size == 1:
        return work()
    outcome: list[T | Exception | None] = [None, None]
    if rank == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error if isinstance(error, ValueError) else RuntimeError(f"on the first process: {error!r}")
    dist.broadcast_object_list(outcome)
    result, error = outcome
    if isinstance(error, Exception):
        raise error
    return result  # type: ignore[return-value]


def add_up(values: torch.Tensor) -> torch.Tensor:
    """`values`, which are changed into the sum of everyone's; without the copy that `total` takes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def together(error: UserError | None) -> None:
    """Raises, on every process, the error of the first one that has any; all of them call it, and so nobody waits for others."""
    _, world_size = rank_and_size()
    errors: list[UserError | None] = [error] * world_size
    if world_size > 1:
        dist.all_gather_object(errors, error)  # type: ignore[arg-type]
    for each in errors:
        if each is not None:
            atexit.register(_part)
            raise each


def _part() -> None:
    """Waits for the threads that exchange things: one that lets go of a tensor while Python ends would take the process down."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of everyone's `values`, on every process."""
    values = values.clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
