"""Schedules in continuous time: two functions alpha(t), sigma(t) and what follows from them."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from alphabar.diffusion.errors import NeedsNumSteps
from alphabar.diffusion.schedules import Schedule


class ContinuousSchedule(Schedule, ABC):
    """A schedule that is stated as alpha(t), falling from alpha(0) = 1, and sigma(t), rising from sigma(0) = 0.

    Everything else follows: times are uniform from `first` to `last`, the inverse of sigma / alpha is found by bisection and the
    derivative of log snr by automatic differentiation. A leaf may give a closed form of any of them.

    first: the first time after data, 0 for data itself. last: the last time. Raises ValueError unless 0 <= first < last < inf.
    """

    def __init__(self, first: float = 0.0, last: float = 1.0) -> None:
        super().__init__()
        if not 0 <= first < last < float("inf"):
            raise ValueError(f"need 0 <= first < last < inf, got first={first}, last={last}")
        self.first, self.last = first, last

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Returns the scale of the signal at times t, their shape."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Returns the scale of the noise at times t, their shape."""

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.alpha(t), self.sigma(t)

    def time(self, u: Tensor) -> Tensor:
        return self.first + u * (self.last - self.first)

    def level(self, t: Tensor) -> Tensor:
        return (t - self.first) / (self.last - self.first)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        with torch.enable_grad():
            u = self.level(t).detach().requires_grad_()
            alpha, sigma = self(self.time(u))
        return 2 * (alpha.detach() * derivative(sigma, u) - sigma.detach() * derivative(alpha, u))

    def label(self, t: Tensor) -> Tensor:
        """Returns 1000 * t, for times from 0 to 1."""
        return 1000 * t

    def time_of(self, ratio: Tensor) -> Tensor:
        """Returns the time in [0, last] at which sigma_t / alpha_t is `ratio`, by bisection to the last digit of its dtype."""
        low, high = torch.zeros_like(ratio), torch.full_like(ratio, self.last)
        for _ in range(torch.finfo(ratio.dtype).bits):
            middle = (low + high) / 2
            alpha, sigma = self(middle)
            is_below = sigma < ratio * alpha
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        return high

    def noise_range(self) -> tuple[float, float]:
        alpha, sigma = self(torch.tensor([self.first, self.last], dtype=torch.float64))
        first, last = (sigma / alpha).tolist()
        return first, last

    def timesteps(self, num_steps: int | None) -> Tensor:
        times = self.time(torch.linspace(1, 0, need_steps(num_steps) + 1, dtype=torch.float64))
        return self.snap(times[:-1])

    def snap(self, times: Tensor) -> Tensor:
        return torch.cat([times, times.new_zeros(1)])


def derivative(y: Tensor, x: Tensor) -> Tensor:
    """Returns dy/dx of y, each element of which is a function of the same one of x; 0 for a constant."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y.sum(), x, retain_graph=True)[0]


def need_steps(num_steps: int | None) -> int:
    """Returns the number of steps in continuous time. Raises NeedsNumSteps for None, and ValueError for less than 1."""
    if num_steps is None or num_steps < 1:
        error = NeedsNumSteps if num_steps is None else ValueError
        raise error(f"need num_steps >= 1 on a schedule with continuous time, got num_steps={num_steps}")
    return num_steps
