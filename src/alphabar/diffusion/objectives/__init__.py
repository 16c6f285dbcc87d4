"""Objectives: what training minimises."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond, NetworkDenoiser


class Terms(NamedTuple):
    """The loss of every example [B], and the noise level it was taken at [B]: a quantile in [0, 1), 0 next to clean data."""

    loss: Tensor
    level: Tensor


class Objective(nn.Module, ABC):
    """A loss whose minimum is a good denoiser; a module, since it may learn too."""

    @abstractmethod
    def forward(self, denoiser: NetworkDenoiser, x: Tensor, cond: Cond = None) -> Terms:
        """The loss of clean data x [B, ...]; times and noise are drawn from torch's global stream."""


class Weighting(nn.Module, ABC):
    """How much each noise level counts."""

    @abstractmethod
    def forward(self, alpha: Tensor, sigma: Tensor, determinant: Tensor) -> Tensor:
        """Weights [B] of the squared error of the network's output y.

        The error of x_hat is sigma / determinant times that of y: a weight w stated for x is w * (sigma / determinant)^2 here.
        """
