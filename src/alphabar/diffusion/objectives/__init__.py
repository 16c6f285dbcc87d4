"""Objectives: what training minimises."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond, NetworkDenoiser, Output
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.diffusion.schedules import NoisedBatch, Scales, Schedule


class LossTerms(NamedTuple):
    """The loss of every example [B], and the noise level it was taken at [B]: a level of the schedule in [0, 1], 0 next to data."""

    loss: Tensor
    level: Tensor


class SampledTimes(NamedTuple):
    """Times t [B], their levels [B] in [0, 1], and weights [B] that make up for drawing some times more often than others."""

    t: Tensor
    level: Tensor
    weight: Tensor


class Times(nn.Module, ABC):
    """A distribution of the times that are trained on; a module, since it may learn from the losses."""

    @abstractmethod
    def forward(self, schedule: Schedule, num: int, device: torch.device, share: RankShare) -> SampledTimes:
        """Returns `num` times, this process's share of the batch. Raises ValueError if the schedule has no such times."""

    @abstractmethod
    def observe(self, level: Tensor, loss: Tensor) -> None:
        """Learns from the loss [B], without weights, at levels [B]; without gradients."""


class Weighting(nn.Module, ABC):
    """A weight of each noise level in the loss; a module, since it may learn too."""

    @abstractmethod
    def forward(self, error: Tensor, scales: Scales, denoiser: NetworkDenoiser) -> Tensor:
        """Returns the loss [B] from the squared error [B] of the network's output y at the times of `scales` [B].

        With the determinant of the denoiser's parameterization, the error of x_hat is sigma / determinant times that of y: a weight
        w stated for x is w * (sigma / determinant)^2 here.
        """


class Coupling(nn.Module, ABC):
    """A joint distribution of data and noise: which noise meets which data."""

    @abstractmethod
    def forward(self, x: Tensor, share: RankShare = SINGLE_PROCESS) -> Tensor:
        """Returns eps, the shape of x [B, ...]: row i is the noise that is added to row i of x, and that a network should find."""


class Objective(nn.Module, ABC):
    """A loss whose minimum is a good denoiser; a module, since it may learn too."""

    @abstractmethod
    def forward(self, denoiser: NetworkDenoiser, x: Tensor, cond: Cond = None, share: RankShare = SINGLE_PROCESS) -> LossTerms:
        """Returns the loss of clean data x [B, ...], this process's share of a batch, which draws times and noise.

        Raises ValueError if the denoiser's network or schedule is not one for this objective.
        """


def regress(denoiser: NetworkDenoiser, batch: NoisedBatch, cond: Cond) -> tuple[Output, Tensor]:
    """Returns the network's output at x_t, and its squared error against the target, the mean over all dimensions [B]."""
    output = denoiser.output(batch.x_t, batch.scales, cond)
    target = denoiser.parameterization.target(batch.x, batch.eps, *batch.scales.like(batch.x))
    return output, (output.y - target).square().flatten(1).mean(1)
