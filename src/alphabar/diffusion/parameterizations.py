"""Parameterizations: which point of the (x, eps) plane the network's output stands for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parameterization(ABC):
    """The output is y = a * x + b * eps; together with x_t = alpha * x + sigma * eps it gives both x and eps.

    alpha and sigma broadcast against the data, [B, 1, ...].
    """

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b), each the shape of alpha."""

    @abstractmethod
    def scale_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network sees in place of x_t [B, ...] (c_in * x_t in Karras et al. 2022)."""

    @abstractmethod
    def noise_label(self, label: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network is told about the noise level [B] (c_noise), given the schedule's own label [B]."""

    def determinant(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """alpha * b - sigma * a: where it is 0, y and x_t do not determine x."""
        a, b = self.coefficients(alpha, sigma)
        return alpha * b - sigma * a

    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """y = a * x + b * eps, what the network is trained to output."""
        a, b = self.coefficients(alpha, sigma)
        return a * x + b * eps

    def invert(self, y: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(x_hat, eps_hat) from the output y, the solution of the two equations above."""
        a, b = self.coefficients(alpha, sigma)
        determinant = alpha * b - sigma * a
        return (b * x_t - sigma * y) / determinant, (alpha * y - a * x_t) / determinant


@dataclass(frozen=True)
class Plain(Parameterization, ABC):
    """A parameterization that hands x_t and the schedule's label to the network as they are."""

    def scale_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_t

    def noise_label(self, label: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return label


@dataclass(frozen=True)
class Epsilon(Plain):
    """y = eps, the noise (Ho et al. 2020, eq. 14)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha)


@dataclass(frozen=True)
class X(Plain):
    """y = x, the clean data (Ho et al. 2020, sec. 3.2)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(alpha)


@dataclass(frozen=True)
class V(Plain):
    """y = v = alpha * eps - sigma * x (Salimans & Ho 2022, sec. 4)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, alpha
