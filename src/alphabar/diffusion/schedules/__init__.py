"""Noise schedules: how much signal and how much noise there is at time t."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class Scales(NamedTuple):
    """Times t [B] with their alpha_t and sigma_t [B], read from a schedule once."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    def like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (alpha_t, sigma_t) as [B, 1, ...], to broadcast against x [B, ...], in its dtype."""
        shape = (-1,) + (1,) * (x.ndim - 1)
        alpha, sigma = self.alpha.view(shape), self.sigma.view(shape)
        return (alpha, sigma) if alpha.dtype == sigma.dtype == x.dtype else (alpha.to(x.dtype), sigma.to(x.dtype))


class NoisedBatch(NamedTuple):
    """A batch of x_t = alpha_t * x + sigma_t * eps with everything that it was made of; x, eps and x_t [B, ...], scales [B]."""

    x: Tensor
    eps: Tensor
    scales: Scales
    x_t: Tensor


class Schedule(nn.Module, ABC):
    """A map from time to scales: x_t = alpha_t * x + sigma_t * eps; data lives at t = 0, where alpha is 1 and sigma 0.

    A time has a level u in [0, 1], which is uniform where times are: 0 next to data, 1 at the last time.
    `is_discrete` says whether there are only the times 1..T of a table, so that nothing can stand between two of them.
    """

    is_discrete: ClassVar[bool] = False

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (alpha_t, sigma_t), each the shape of t; float32, or float64 for float64 times."""

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        """Returns the time at level u in [0, 1], the shape of u."""

    @abstractmethod
    def level(self, t: Tensor) -> Tensor:
        """Returns the level in [0, 1] of time t, the inverse of `time`, the shape of t."""

    @abstractmethod
    def log_snr_rate(self, t: Tensor) -> Tensor:
        """Returns alpha_t * sigma_t * (-d log snr / du) = 2 * (alpha dsigma/du - sigma dalpha/du), at level u of t, the shape of t.

        The factor alpha_t * sigma_t keeps it finite where log snr itself is not.
        """

    @abstractmethod
    def label(self, t: Tensor) -> Tensor:
        """Returns what stands for t in the input of a network: of the order of 0 to 1000, the shape of t."""

    @abstractmethod
    def time_of(self, ratio: Tensor) -> Tensor:
        """Returns the time at which sigma_t / alpha_t is `ratio` > 0; of a discrete schedule the step nearest in log scale."""

    @abstractmethod
    def noise_range(self) -> tuple[float, float]:
        """Returns sigma / alpha at the first time after data and at the last time; inf where nothing is left of the data."""

    @abstractmethod
    def timesteps(self, num_steps: int | None) -> Tensor:
        """Returns `num_steps` + 1 falling times [N + 1], even in their level, the last of them 0; None takes every step there is.

        Raises ValueError if there are not as many, or for None where there is no end of them.
        """

    @abstractmethod
    def snap(self, times: Tensor) -> Tensor:
        """Returns `times` [N], falling and positive, as times that the schedule has, no two alike, with 0 behind them: [N + 1].

        Raises ValueError if there are not as many.
        """

    def scales(self, t: Tensor) -> Scales:
        """Returns the times t [B] with their scales."""
        return Scales(t, *self(t))

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (alpha_t, sigma_t) of t [B], shaped [B, 1, ...] to broadcast against `like` [B, ...], in its dtype."""
        return self.scales(t).like(like)

    def noised(self, x: Tensor, t: Tensor, eps: Tensor) -> NoisedBatch:
        """Returns x [B, ...] noised by eps [B, ...] to times t [B] (Ho et al. 2020, eq. 4)."""
        scales = self.scales(t)
        alpha, sigma = scales.like(x)
        return NoisedBatch(x, eps, scales, alpha * x + sigma * eps)

    def q_sample(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Returns x_t = alpha_t * x + sigma_t * eps, the forward process in closed form (Ho et al. 2020, eq. 4)."""
        return self.noised(x, t, eps).x_t

    def q_transition(self, t: Tensor, s: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (alpha_ts, var_ts) of q(x_t | x_s) = N(alpha_ts * x_s, var_ts), for s < t (Kingma et al. 2021, app. A.1).

        alpha_ts = alpha_t / alpha_s;  var_ts = sigma_t^2 - alpha_ts^2 * sigma_s^2
        """
        return transition(self.scales(t), self.scales(s), like)

    def q_posterior(self, x: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and variance of q(x_s | x_t, x) for s < t, by Bayes (Ho et al. 2020, eq. 7, for s = t - 1).

        mean = (alpha_ts * sigma_s^2 * x_t + alpha_s * var_ts * x) / sigma_t^2;  variance = var_ts * sigma_s^2 / sigma_t^2
        """
        return posterior(x, x_t, self.scales(t), self.scales(s))


def transition(at_t: Scales, at_s: Scales, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (alpha_ts, var_ts) as `Schedule.q_transition`, from the scales at both times."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t.like(like), at_s.like(like)
    alpha_ts = alpha_t / alpha_s
    return alpha_ts, (sigma_t**2 - alpha_ts**2 * sigma_s**2).clamp(min=0)


def posterior(x: Tensor, x_t: Tensor, at_t: Scales, at_s: Scales) -> tuple[Tensor, Tensor]:
    """Returns mean and variance as `Schedule.q_posterior`, from the scales at both times."""
    (_, sigma_t), (alpha_s, sigma_s) = at_t.like(x_t), at_s.like(x_t)
    alpha_ts, var_ts = transition(at_t, at_s, x_t)
    mean = (alpha_ts * sigma_s**2 * x_t + alpha_s * var_ts * x) / sigma_t**2
    return mean, var_ts * sigma_s**2 / sigma_t**2
