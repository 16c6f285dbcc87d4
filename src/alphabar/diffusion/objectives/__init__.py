"""Objectives: what training minimises."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond, NetworkDenoiser, Output
from alphabar.diffusion.schedules import Schedule


class LossTerms(NamedTuple):
    """The loss of every example [B], and the noise level it was taken at [B]: a level of the schedule in [0, 1], 0 next to data."""

    loss: Tensor
    level: Tensor


class RankShare(NamedTuple):
    """Which part of a batch that several processes train on together is this process's.

    seed: the same on all of them, another in every step; None draws from torch's global stream.
    """

    rank: int = 0
    world_size: int = 1
    seed: int | None = None


SINGLE_PROCESS = RankShare()


class SampledTimes(NamedTuple):
    """Times t [B], their levels [B] in [0, 1], and weights [B] that make up for drawing some times more often than others."""

    t: Tensor
    level: Tensor
    weight: Tensor


class Times(nn.Module, ABC):
    """Which times are trained on, and how often; a module, since it may learn from the losses."""

    @abstractmethod
    def forward(self, schedule: Schedule, num: int, device: torch.device, share: RankShare) -> SampledTimes:
        """`num` times. Raises ValueError if the schedule has no such times."""

    @abstractmethod
    def observe(self, level: Tensor, loss: Tensor) -> None:
        """Learns from the loss [B], without weights, at levels [B]; without gradients."""


class Weighting(nn.Module, ABC):
    """How much each noise level counts; a module, since it may learn too."""

    @abstractmethod
    def forward(self, error: Tensor, alpha: Tensor, sigma: Tensor, determinant: Tensor, speed: Tensor) -> Tensor:
        """The loss [B] from the squared error [B] of the network's output y.

        The error of x_hat is sigma / determinant times that of y: a weight w stated for x is w * (sigma / determinant)^2 here.
        speed: the schedule's; divided by alpha * sigma, how fast log snr falls.
        """


class Coupling(nn.Module, ABC):
    """Which noise meets which data."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """eps, the shape of x [B, ...]: row i is the noise that is added to row i of x, and the one that a network should find."""


class Objective(nn.Module, ABC):
    """A loss whose minimum is a good denoiser; a module, since it may learn too."""

    @abstractmethod
    def forward(self, denoiser: NetworkDenoiser, x: Tensor, cond: Cond = None, share: RankShare = SINGLE_PROCESS) -> LossTerms:
        """The loss of clean data x [B, ...]; times and noise are drawn from torch's global stream.

        Raises ValueError if the denoiser's network or schedule is not one for this objective.
        """


def regress(denoiser: NetworkDenoiser, x: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, cond: Cond) -> tuple[Output, Tensor]:
    """The network's output at x_t, and its squared error against the target, the mean over everything but the batch [B]."""
    alpha, sigma = denoiser.schedule.at(t, x)
    output = denoiser.output(x_t, t, cond)
    error = output.y - denoiser.parameterization.target(x, eps, alpha, sigma)
    return output, error.square().flatten(1).mean(1)
