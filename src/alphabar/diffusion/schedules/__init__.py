"""Noise schedules: how much signal and how much noise there is at time t."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Schedule(nn.Module, ABC):
    """Maps time to scales: x_t = alpha_t * x + sigma_t * eps; data lives at t = 0, where alpha is 1 and sigma 0.

    `is_discrete`: whether there are only the times 1..T of a table, so that nothing can stand between two of them.
    """

    is_discrete: ClassVar[bool] = False

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), each the shape of t; float32, or float64 for float64 times."""

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        """The time at level u in [0, 1] of the schedule's own, uniform time distribution: 0 next to data, 1 the last time."""

    @abstractmethod
    def level(self, t: Tensor) -> Tensor:
        """The level in [0, 1] of time t: the inverse of `time`."""

    @abstractmethod
    def speed(self, t: Tensor) -> Tensor:
        """2 * (alpha dsigma/du - sigma dalpha/du) at time t, the shape of t, u being its level: alpha * sigma * (-d log snr / du),
        which is finite where log snr is not."""

    @abstractmethod
    def label(self, t: Tensor) -> Tensor:
        """What a network is told about t: of the order of 0 to 1000, the shape of t."""

    @abstractmethod
    def time_of(self, ratio: Tensor) -> Tensor:
        """The time at which sigma_t / alpha_t is `ratio` > 0; of a discrete schedule the step nearest to it in log scale."""

    @abstractmethod
    def noise_range(self) -> tuple[float, float]:
        """sigma / alpha at the first time after data and at the last time; inf where nothing is left of the data."""

    @abstractmethod
    def timesteps(self, num_steps: int | None) -> Tensor:
        """`num_steps` + 1 falling times, even in the schedule's own time, the last of them 0; None takes every step there is.

        Raises ValueError if there are not as many, or for None where there is no end of them.
        """

    @abstractmethod
    def snap(self, times: Tensor) -> Tensor:
        """`times` [N], falling and positive, as times that the schedule has, no two alike, with 0 behind them: [N + 1].

        Raises ValueError if there are not as many.
        """

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) of t [B], shaped [B, 1, ...] to broadcast against `like` [B, ...], in its dtype."""
        alpha, sigma = self(t)
        shape = (-1,) + (1,) * (like.ndim - 1)
        return alpha.view(shape).to(like.dtype), sigma.view(shape).to(like.dtype)

    def q_sample(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = alpha_t * x + sigma_t * eps, the forward process in closed form (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self.at(t, x)
        return alpha * x + sigma * eps

    def q_transition(self, t: Tensor, s: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_ts, var_ts) of q(x_t | x_s) = N(alpha_ts * x_s, var_ts), for s < t (Kingma et al. 2021, app. A.1).

        alpha_ts = alpha_t / alpha_s;  var_ts = sigma_t^2 - alpha_ts^2 * sigma_s^2
        """
        alpha_t, sigma_t = self.at(t, like)
        alpha_s, sigma_s = self.at(s, like)
        alpha_ts = alpha_t / alpha_s
        return alpha_ts, (sigma_t**2 - alpha_ts**2 * sigma_s**2).clamp(min=0)

    def q_posterior(self, x: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_s | x_t, x) for s < t, by Bayes (Ho et al. 2020, eq. 7, for s = t - 1).

        mean = (alpha_ts * sigma_s^2 * x_t + alpha_s * var_ts * x) / sigma_t^2;  variance = var_ts * sigma_s^2 / sigma_t^2
        """
        alpha_ts, var_ts = self.q_transition(t, s, x_t)
        alpha_s, sigma_s = self.at(s, x_t)
        _, sigma_t = self.at(t, x_t)
        mean = (alpha_ts * sigma_s**2 * x_t + alpha_s * var_ts * x) / sigma_t**2
        return mean, var_ts * sigma_s**2 / sigma_t**2


def need_steps(num_steps: int | None) -> int:
    """The number of steps of a schedule without an end of them. Raises ValueError for None, or less than 1."""
    if num_steps is None or num_steps < 1:
        got = "null" if num_steps is None else num_steps
        raise ValueError(f"need num_steps >= 1 on a schedule with continuous time, got num_steps={got}")
    return num_steps
