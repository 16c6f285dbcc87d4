"""What the processes of a run do together; with one process, nothing."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

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


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of everyone's `values`, on every process."""
    values = values.clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
