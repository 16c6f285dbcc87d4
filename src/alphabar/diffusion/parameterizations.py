"""Parameterizations: which point of the (x, eps) plane the network's output stands for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parameterization(ABC):
    """A meaning of the network's output, y = a * x + b * eps; together with x_t = alpha * x + sigma * eps it gives both x and eps.

    alpha and sigma broadcast against the data, [B, 1, ...].
    """

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (a, b), each the shape of alpha."""

    @abstractmethod
    def scale_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns the network's input in place of x_t [B, ...] (c_in * x_t in Karras et al. 2022)."""

    @abstractmethod
    def noise_label(self, label: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns the network's label of the noise level [B] (c_noise in Karras et al. 2022), from the schedule's label [B]."""

    def is_defined(self, alpha: Tensor, sigma: Tensor) -> bool:
        """Returns whether, at all the given scales, y and x_t determine x, and there is a label for the network."""
        determined = self.determinant(alpha, sigma).abs() > 1e-6
        labels = self.noise_label(torch.zeros_like(alpha), alpha, sigma)
        return bool(determined.all() and labels.isfinite().all())

    def determinant(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns alpha * b - sigma * a: where it is 0, y and x_t do not determine x."""
        a, b = self.coefficients(alpha, sigma)
        return alpha * b - sigma * a

    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns y = a * x + b * eps, what the network is trained to output."""
        a, b = self.coefficients(alpha, sigma)
        return a * x + b * eps

    def invert(self, y: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (x_hat, eps_hat) from the output y, the solution of the two equations above."""
        a, b = self.coefficients(alpha, sigma)
        determinant = alpha * b - sigma * a
        return (b * x_t - sigma * y).div_(determinant), (alpha * y - a * x_t).div_(determinant)


@dataclass(frozen=True)
class Plain(Parameterization, ABC):
    """A parameterization that hands x_t and the schedule's label to the network as they are."""

    def scale_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_t

    def noise_label(self, label: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return label


@dataclass(frozen=True)
class Epsilon(Plain):
    """The parameterization y = eps, the noise (Ho et al. 2020, eq. 14)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha)

    def invert(self, y: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (x_hat, eps_hat) as every parameterization, rounded as there, without the products with a = 0 and b = 1."""
        return (x_t - sigma * y).div_(alpha), (alpha * y).div_(alpha)


@dataclass(frozen=True)
class X(Plain):
    """The parameterization y = x, the clean data (Ho et al. 2020, sec. 3.2)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(alpha)


@dataclass(frozen=True)
class V(Plain):
    """The parameterization y = v = alpha * eps - sigma * x (Salimans & Ho 2022, sec. 4)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, alpha


@dataclass(frozen=True)
class Velocity(Plain):
    """The parameterization y = eps - x, along which x_t moves on straight lines from data to noise (Liu et al. 2022, eq. 1; Lipman
    et al. 2022).
    """

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(alpha), torch.ones_like(alpha)


@dataclass(frozen=True)
class EDM(Parameterization):
    """The preconditioning of Karras et al. 2022 (table 1), for any alpha: input and target have unit variance at every level.

    With r = sqrt(alpha^2 sigma_data^2 + sigma^2), x_hat = c_skip * x_t + c_out * y, where c_skip = alpha sigma_data^2 / r^2 and
    c_out = sigma sigma_data / r; c_in = 1 / r; c_noise = label_scale * ln(sigma / alpha) / 4. An error of y without weights is
    their loss.

    sigma_data: the standard deviation of the data.
    label_scale: 1 in the paper. The networks here embed labels of the order of 0 to 1000, and tell noise levels that differ by a
        hundredth apart only with a large effort: 1000 brings c_noise to that order.
    Raises ValueError unless both are > 0.
    """

    sigma_data: float = 0.5
    label_scale: float = 1000.0

    def __post_init__(self) -> None:
        if not self.sigma_data > 0 or not self.label_scale > 0:
            raise ValueError(f"need sigma_data and label_scale > 0, got {self.sigma_data} and {self.label_scale}")

    def length(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns r, the standard deviation of x_t."""
        return (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r = self.length(alpha, sigma)
        return sigma / (self.sigma_data * r), -alpha * self.sigma_data / r

    def scale_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_t / self.length(alpha, sigma)

    def noise_label(self, label: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.label_scale * (sigma / alpha).log() / 4
