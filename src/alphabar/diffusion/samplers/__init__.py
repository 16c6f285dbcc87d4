"""Samplers: reverse diffusion, from noise to data."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Clipped, Cond, Denoiser
from alphabar.diffusion.schedules import Schedule

Noise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Steps from time to time down a grid; a leaf says how to take one step.

    num_steps: how many steps, at most the schedule's own number; None takes all of them.
    clip: whether x_hat is clipped to the data's range [-1, 1] at every step.
    """

    num_steps: int | None
    clip: bool = True

    def __post_init__(self) -> None:
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"need num_steps >= 1, got num_steps={self.num_steps}")

    def label(self, schedule: Schedule) -> str:
        """Its name with the number of steps and what is not as by default, such as "ddim50" or "ddim50-eta0.5"."""
        num_steps = len(schedule.grid(self.num_steps)) - 1
        changed = [
            f"-{field.name}{value}"
            for field, value in zip(fields(self), astuple(self), strict=True)
            if field.name != "num_steps" and value != field.default
        ]
        return f"{type(self).__name__.lower()}{num_steps}{''.join(changed)}"

    @abstractmethod
    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond, noise: Noise) -> Tensor:
        """x_s [B, ...] from x_t [B, ...]; times t and s [B], s < t, s = 0 at the last step; noise(like) draws from N(0, 1)."""

    @torch.no_grad()
    def trajectory(
        self,
        denoiser: Denoiser,
        x_T: Tensor,
        cond: Cond = None,
        noise: Noise = torch.randn_like,
        grid: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """x at every time of the grid, the given x_T [B, ...] first and clean data last.

        grid: falling times, the last of them 0, in place of the schedule's `num_steps` evenly spaced ones.
        """
        grid = denoiser.schedule.grid(self.num_steps) if grid is None else grid
        denoiser = Clipped(denoiser) if self.clip else denoiser
        x_t = x_T
        yield x_t
        for t, s in pairwise(grid):
            x_t = self.step(denoiser, x_t, t.expand(len(x_t)), s.expand(len(x_t)), cond, noise)
            yield x_t

    def sample(
        self, denoiser: Denoiser, x_T: Tensor, cond: Cond = None, noise: Noise = torch.randn_like, grid: Tensor | None = None
    ) -> Tensor:
        """Clean data [B, ...], the end of `trajectory`."""
        x = x_T
        for x in self.trajectory(denoiser, x_T, cond, noise, grid):  # noqa: B007 - the last one is the result
            pass
        return x
