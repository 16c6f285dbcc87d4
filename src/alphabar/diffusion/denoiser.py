"""Denoisers: from a noisy x_t to a prediction of what is data in it and what is noise."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alphabar.diffusion.parameterizations import EDM, Epsilon, Parameterization, V, Velocity, X
from alphabar.diffusion.schedules import Schedule

Cond = Mapping[str, Tensor] | None


class Prediction(NamedTuple):
    """A point in the (x, eps) plane, each [B, ...]; alpha_t * x_hat + sigma_t * eps_hat = x_t.

    variance: where that of the reverse step lies, [B, ...], 0 at its lower bound and 1 at its upper one; None if it is not learned.
    """

    x_hat: Tensor
    eps_hat: Tensor
    variance: Tensor | None = None


class Output(NamedTuple):
    """What a network says: y [B, ...], and `variance` as in `Prediction`."""

    y: Tensor
    variance: Tensor | None


class Denoiser(nn.Module, ABC):
    """The one thing that samplers see: a schedule, and predictions under it."""

    schedule: Schedule

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        """The prediction for x_t [B, ...] at times t [B], t > 0."""


class NetworkDenoiser(Denoiser):
    """A network, read through a parameterization, under a schedule.

    A network with twice as many channels as the data has, [B, 2C, ...], says in the second half where the variance of the reverse
    step lies (Nichol & Dhariwal 2021, sec. 3.1).

    Raises ValueError if the parameterization does not determine x somewhere on the schedule, such as epsilon where alpha is 0.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization) -> None:
        super().__init__()
        # The first level above 0: at data itself nothing is ever predicted.
        ends = schedule(schedule.time(torch.tensor([1e-3, 1.0])))
        if not parameterization.is_defined(*ends):
            choices = (Epsilon(), X(), V(), Velocity(), EDM())
            names = [type(other).__name__ for other in choices if other.is_defined(*ends)]
            raise ValueError(
                f"parameterization {type(parameterization).__name__} does not determine x on this schedule, "
                f"where alpha goes down to {ends[0].min():g}; choose one of: {', '.join(names)}"
            )
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization

    def output(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Output:
        """The network's raw output in the dtype of x_t [B, C, ...], for objectives.

        Raises ValueError if the network has another number of channels than C or 2C.
        """
        alpha, sigma = self.schedule.at(t, x_t)
        label = self.parameterization.noise_label(self.schedule.label(t), *self.schedule(t))
        raw = self.network(self.parameterization.scale_input(x_t, alpha, sigma), label, cond).to(x_t.dtype)
        if raw.shape == x_t.shape:
            return Output(raw, None)
        channels = x_t.shape[1] if x_t.ndim > 1 else 0
        if raw.ndim != x_t.ndim or raw.shape[1] != 2 * channels or raw.shape[2:] != x_t.shape[2:]:
            raise ValueError(
                f"need a network whose output is {list(x_t.shape[1:])}, as the data, or has twice the channels to learn "
                f"the variance; got {list(raw.shape[1:])}"
            )
        return Output(raw[:, :channels], (raw[:, channels:] + 1) / 2)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        alpha, sigma = self.schedule.at(t, x_t)
        y, variance = self.output(x_t, t, cond)
        return Prediction(*self.parameterization.invert(y, x_t, alpha, sigma), variance)
