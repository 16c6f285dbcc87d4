"""The schedule of rectified flow: straight lines between data and noise."""

import math

import torch
from torch import Tensor

from alphabar.diffusion.schedules import Schedule, need_steps


class StraightSchedule(Schedule):
    """alpha_t = 1 - t, sigma_t = t, t in [0, 1] (Liu et al. 2022; Lipman et al. 2022, with sigma_min = 0).

    shift: larger images need more noise: level u becomes t = shift * u / (1 + (shift - 1) * u), in training and in sampling alike,
        shift = sqrt(pixels / pixels of the images that 1 is right for) (Esser et al. 2024, eq. 23).
    Raises ValueError unless shift > 0.
    """

    def __init__(self, shift: float = 1.0) -> None:
        super().__init__()
        if not shift > 0:
            raise ValueError(f"need shift > 0, got shift={shift}")
        self.shift = shift

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def time(self, u: Tensor) -> Tensor:
        return self.shift * u / (1 + (self.shift - 1) * u)

    def level(self, t: Tensor) -> Tensor:
        return t / (self.shift - (self.shift - 1) * t)

    def speed(self, t: Tensor) -> Tensor:
        return 2 * (self.shift - (self.shift - 1) * t) ** 2 / self.shift  # 2 dt/du

    def label(self, t: Tensor) -> Tensor:
        """1000 * t."""
        return 1000 * t

    def time_of(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + 1 / ratio)  # of inf, too

    def noise_range(self) -> tuple[float, float]:
        return 0.0, math.inf

    def timesteps(self, num_steps: int | None) -> Tensor:
        return self.time(torch.linspace(1, 0, need_steps(num_steps) + 1, dtype=torch.float64))

    def snap(self, times: Tensor) -> Tensor:
        return torch.cat([times, times.new_zeros(1)])
