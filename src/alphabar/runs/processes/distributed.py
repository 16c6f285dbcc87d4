"""Collective operations of the processes of a run; with one process they do nothing."""

import atexit
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from alphabar.errors import UserError

T = TypeVar("T")


def rank_and_size() -> tuple[int, int]:
    """Returns (rank of this process, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def from_first(work: Callable[[], T]) -> T:
    """Calls `work` on the first process and returns its result on all of them.

    An error is raised on all of them too, so that none waits for a process that failed. The result is sent to the other processes,
    so that they need not share a file system.
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


def sum_over_ranks_(values: torch.Tensor) -> torch.Tensor:
    """Replaces `values` in place by their sum over all processes, and returns them; `sum_over_ranks` changes none."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def raise_together(error: UserError | None) -> None:
    """Raises the first error that any process passes on all processes, so that none waits for another; all of them call it."""
    _, world_size = rank_and_size()
    errors: list[UserError | None] = [error] * world_size
    if world_size > 1:
        dist.all_gather_object(errors, error)  # type: ignore[arg-type]
    for each in errors:
        if each is not None:
            atexit.register(_destroy_process_group)
            raise each


def _destroy_process_group() -> None:
    """Waits for the communication threads: one that frees a tensor while Python shuts down would crash the process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Returns the sum of `values` over all processes, on all of them."""
    return sum_over_ranks_(values.clone())


def max_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Returns the largest of each of `values` over all processes, on all of them."""
    values = values.clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values
