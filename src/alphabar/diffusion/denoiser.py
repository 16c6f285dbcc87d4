"""Denoisers: from a noisy x_t to a prediction of what is data in it and what is noise."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alphabar.diffusion.parameterizations import Epsilon, Parameterization, V, X
from alphabar.diffusion.schedules import Schedule

Cond = Mapping[str, Tensor] | None


class Prediction(NamedTuple):
    """A point in the (x, eps) plane, each [B, ...]; alpha_t * x_hat + sigma_t * eps_hat = x_t."""

    x_hat: Tensor
    eps_hat: Tensor


class Denoiser(nn.Module, ABC):
    """The one thing that samplers see: a schedule, and predictions under it."""

    schedule: Schedule

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        """The prediction for x_t [B, ...] at times t [B], t > 0."""


class NetworkDenoiser(Denoiser):
    """A network, read through a parameterization, under a schedule.

    Raises ValueError if the parameterization does not determine x somewhere on the schedule, such as epsilon where alpha is 0.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization) -> None:
        super().__init__()
        ends = schedule(schedule.time(torch.tensor([0.0, 1.0])))
        if not determined(parameterization, *ends):
            names = [type(other).__name__ for other in (Epsilon(), X(), V()) if determined(other, *ends)]
            raise ValueError(
                f"parameterization {type(parameterization).__name__} does not determine x on this schedule, "
                f"where alpha goes down to {ends[0].min():g}; choose one of: {', '.join(names)}"
            )
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization

    def output(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """The network's raw output y [B, ...] in float32, for objectives."""
        alpha, sigma = self.schedule.at(t, x_t)
        label = self.parameterization.noise_label(self.schedule.label(t), *self.schedule(t))
        return self.network(self.parameterization.scale_input(x_t, alpha, sigma), label, cond).float()

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        alpha, sigma = self.schedule.at(t, x_t)
        return Prediction(*self.parameterization.invert(self.output(x_t, t, cond), x_t, alpha, sigma))


def determined(parameterization: Parameterization, alpha: Tensor, sigma: Tensor) -> bool:
    """Whether y and x_t determine x at all the given scales."""
    return bool((parameterization.determinant(alpha, sigma).abs() > 1e-6).all())


class Clipped(Denoiser):
    """Another denoiser with x_hat clipped to the data's range [-1, 1], and eps_hat moved so that both still give x_t."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        alpha, sigma = self.schedule.at(t, x_t)
        x_hat = self.denoiser(x_t, t, cond).x_hat.clamp(-1, 1)
        return Prediction(x_hat, (x_t - alpha * x_hat) / sigma)
