"""Noise schedules: how much signal and how much noise there is at time t."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Schedule(nn.Module, ABC):
    """Maps time to scales: x_t = alpha_t * x + sigma_t * eps.

    `prior_std` is the standard deviation of x_T, from which samplers start.
    """

    prior_std: float = 1.0

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), float32, each the shape of t."""

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        """The time at quantile u in [0, 1) of the schedule's own, uniform time distribution."""

    @abstractmethod
    def label(self, t: Tensor) -> Tensor:
        """What a network is told about t: float32, of the order of 0 to 1000, the shape of t."""

    @abstractmethod
    def grid(self, num_steps: int | None) -> Tensor:
        """`num_steps` + 1 falling times from the prior to clean data; None takes every step there is."""

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) of t [B], shaped [B, 1, ...] to broadcast against `like` [B, ...]."""
        alpha, sigma = self(t)
        shape = (-1,) + (1,) * (like.ndim - 1)
        return alpha.view(shape), sigma.view(shape)

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
