"""Denoisers: from a noisy x_t to a prediction of what is data in it and what is noise."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from alphabar.diffusion.errors import MisshapenOutput
from alphabar.diffusion.parameterizations import EDM, Epsilon, Parameterization, V, Velocity, X
from alphabar.diffusion.schedules import Scales, Schedule
from alphabar.diffusion.schedules.validation import check_schedule

Cond = Mapping[str, Tensor] | None


class Prediction(NamedTuple):
    """A prediction of data and noise, each [B, ...], on the line alpha_t * x_hat + sigma_t * eps_hat = x_t of the (x, eps) plane.

    variance: where the variance of the reverse step lies between its bounds, [B, ...], 0 at the lower and 1 at the upper one; None
        if it is not learned.
    """

    x_hat: Tensor
    eps_hat: Tensor
    variance: Tensor | None = None


class Output(NamedTuple):
    """The output of a network: y [B, ...], and `variance` as in `Prediction`."""

    y: Tensor
    variance: Tensor | None


class Denoiser(nn.Module, ABC):
    """A model as samplers see it: a schedule, and predictions under it."""

    schedule: Schedule

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        """Returns the prediction for x_t [B, ...] at times t [B], t > 0."""


class NetworkDenoiser(Denoiser):
    """A denoiser made of a network, the parameterization of its output, and a schedule.

    A network with twice as many channels as the data has, [B, 2C, ...], gives in the second half where the variance of the reverse
    step lies (Nichol & Dhariwal 2021, sec. 3.1).

    Raises ValueError unless the network is called as network(x, label, cond), as `must_have_sizes` and `check_schedule` do, and if
    the parameterization does not determine x somewhere on the schedule, such as epsilon where alpha is 0.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization) -> None:
        super().__init__()
        name = type(network).__name__
        if type(network).forward is nn.Module.forward:
            raise ValueError(f"need a network that is called as network(x, label, cond), and {name} has no forward")
        try:
            (call := inspect.signature(network.forward)).bind("x", "label", "cond")
        except TypeError:
            raise ValueError(f"need a network that is called as network(x, label, cond), and {name}.forward takes {call}") from None
        must_have_sizes(network)
        check_schedule(schedule)
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

    def output(self, x_t: Tensor, scales: Scales, cond: Cond = None) -> Output:
        """Returns the network's raw output in the dtype of x_t [B, C, ...], for objectives; scales: of the times of x_t [B].

        Raises MisshapenOutput if the output of the network is neither [B, C, ...] nor [B, 2C, ...].
        """
        return self._output(x_t, scales, scales.like(x_t), cond)

    def _output(self, x_t: Tensor, scales: Scales, broadcast: tuple[Tensor, Tensor], cond: Cond) -> Output:
        """Returns `output`. broadcast: what `scales.like(x_t)` returns."""
        label = self.parameterization.noise_label(self.schedule.label(scales.t), scales.alpha, scales.sigma)
        label = label.to(torch.promote_types(x_t.dtype, torch.float32))  # times are finer than the network's weights
        raw = self.network(self.parameterization.scale_input(x_t, *broadcast), label, cond).to(x_t.dtype)
        if raw.shape == x_t.shape:
            return Output(raw, None)
        channels = x_t.shape[1] if x_t.ndim > 1 else 0
        if list(raw.shape) != [len(x_t), 2 * channels, *x_t.shape[2:]]:
            raise MisshapenOutput(
                f"need a network whose output is {list(x_t.shape)}, as the data, or has twice the channels to learn "
                f"the variance; got {list(raw.shape)}"
            )
        return Output(raw[:, :channels], (raw[:, channels:] + 1) / 2)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        scales = self.schedule.scales(t)
        broadcast = scales.like(x_t)
        y, variance = self._output(x_t, scales, broadcast, cond)
        return Prediction(*self.parameterization.invert(y, x_t, *broadcast), variance)


def must_have_sizes(part: nn.Module) -> None:
    """Raises ValueError if a layer takes its size from the first input: the weights of a file could not be compared with it."""
    for name, weight in (*part.named_parameters(), *part.named_buffers()):
        if is_lazy(weight):
            layer = type(part.get_submodule(name.rpartition(".")[0])).__name__
            raise ValueError(f"need layers whose sizes are given, and {type(part).__name__}.{name} is of a {layer}")
