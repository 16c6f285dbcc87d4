"""A schedule: signal alpha(t) and noise sigma(t)."""

import torch
from torch import Tensor

from alphabar.diffusion.schedules.continuous import ContinuousSchedule


class Circle(ContinuousSchedule):
    """The quarter of a circle, at constant speed: alpha = cos(pi t / 2), sigma = sin(pi t / 2), t from 0 to `last`."""

    def __init__(self, last: float = 0.99) -> None:
        super().__init__(last=last)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(torch.pi / 2 * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(torch.pi / 2 * t)
