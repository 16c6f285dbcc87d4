"""Profiles of averages of weights: the share of each step in an average, and one profile as a combination of others.

Power-function averages and their reconstruction after training are from Karras et al. 2024, "Analyzing and Improving the Training
Dynamics of Diffusion Models", sec. 3 and app. C. Their length is sigma_rel, the standard deviation of the average's profile over t.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_LENGTH = 12**-0.5  # the length of the plain mean, gamma = 0


class Profile(ABC):
    """A rule of averaging: after update n = 1, 2, ..., average <- average + weight(n) * (weights - average)."""

    @abstractmethod
    def weight(self, num_updates: int) -> float:
        """Returns the share of the newest weights in the average after `num_updates` updates, in (0, 1]."""


@dataclass(frozen=True)
class Exponential(Profile):
    """The profile weight(n) = 1 - min(decay, (1 + n) / (10 + n)), which is a constant decay but for the first steps.

    Raises ValueError unless 0 <= decay < 1.
    """

    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"need 0 <= decay < 1, got decay={self.decay}")

    def weight(self, num_updates: int) -> float:
        return 1 - min(self.decay, (1 + num_updates) / (10 + num_updates))


@dataclass(frozen=True)
class PowerFunction(Profile):
    """The profile average(t) = (gamma + 1) / t^(gamma + 1) * integral of tau^gamma * weights(tau) over 0 < tau < t.

    With weights that change at whole steps this is the recursion weight(n) = 1 - (1 - 1/n)^(gamma + 1); nothing is left of what
    was before the first update (Karras et al. 2024, sec. 3.1).
    sigma_rel: the length, in the range of `gamma_of`.
    """

    sigma_rel: float

    def __post_init__(self) -> None:
        gamma_of(self.sigma_rel)

    @property
    def gamma(self) -> float:
        return gamma_of(self.sigma_rel)

    def weight(self, num_updates: int) -> float:
        if num_updates == 1:
            return 1.0
        return -math.expm1((self.gamma + 1) * math.log1p(-1 / num_updates))


def sigma_rel_of(gamma: float) -> float:
    """Returns the standard deviation of the profile tau^gamma over t: (gamma + 1)^(1/2) / ((gamma + 2) (gamma + 3)^(1/2))."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of(sigma_rel: float) -> float:
    """Returns the exponent of the profile of this length: the largest root of (gamma+2)^2 (gamma+3) = (gamma + 1) / sigma_rel^2.

    With v = gamma + 7/3 this is v^3 + p v + q = 0, which has three real roots (Viete).
    Raises ValueError unless 0 < sigma_rel <= 12^(-1/2).
    """
    if not 0 < sigma_rel <= MAX_LENGTH:
        raise ValueError(f"need 0 < length <= {MAX_LENGTH:.5f}, that of the plain mean, got {sigma_rel}")
    inverse = sigma_rel**-2
    p, q = -inverse - 1 / 3, 4 / 3 * inverse + 2 / 27
    radius = math.sqrt(-p / 3)
    return 2 * radius * math.cos(math.acos(-q / (2 * radius**3)) / 3) - 7 / 3


def inner_products(steps_a: Tensor, gammas_a: Tensor, steps_b: Tensor, gammas_b: Tensor) -> Tensor:
    """Returns the integrals over tau of the products of profiles that end at steps a and b, broadcast.

    With a <= b it is (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) * (a / b)^gamma_b / b (Karras et al. 2024, app. C).
    """
    first, last = torch.minimum(steps_a, steps_b), torch.maximum(steps_a, steps_b)
    exponent = torch.where(steps_a < steps_b, gammas_b, gammas_a)
    return (gammas_a + 1) * (gammas_b + 1) / (gammas_a + gammas_b + 1) * (first / last) ** exponent / last


class Fit(NamedTuple):
    """The combinations of n profiles that approximate m others.

    coefficients: [n, m]. errors: [m], the L2 norms of the differences, relative to those of the approximated profiles.
    """

    coefficients: Tensor
    errors: Tensor


def fit(steps: Tensor, gammas: Tensor, step: float, targets: Tensor) -> Fit:
    """Returns the combinations of n profiles nearest to m others: least ||sum_i c_i p_i - p|| with sum_i c_i = 1.

    The paper (app. C) leaves the sum free. With the constraint, weights that did not change in training are reproduced however bad
    the fit, and weights that walk at random are reproduced several times better.
    steps, gammas: [n], of the given profiles. step, targets: the last step and the gammas [m] of the others. Computed in float64.
    """
    steps, gammas, targets = steps.double(), gammas.double(), targets.double()
    end = torch.full_like(targets, step)
    scale = inner_products(steps, gammas, steps, gammas).rsqrt()  # to profiles of norm 1, or the system is badly conditioned
    products = inner_products(steps[:, None], gammas[:, None], steps, gammas) * scale[:, None] * scale
    wanted = inner_products(steps[:, None], gammas[:, None], end, targets) * scale[:, None]
    border = scale / scale.norm()
    system = torch.zeros(len(steps) + 1, len(steps) + 1, dtype=torch.float64)
    system[:-1, :-1], system[:-1, -1], system[-1, :-1] = products, border, border
    right = torch.cat([wanted, (1 / scale.norm()).expand(1, len(targets))])
    # The solution of least norm where there are several: an average may be given twice.
    solution = torch.linalg.lstsq(system, right, rcond=1e-12, driver="gelsd").solution[:-1]
    norms = inner_products(end, targets, end, targets)
    squares = norms - 2 * (wanted * solution).sum(0) + (solution * (products @ solution)).sum(0)
    return Fit(solution * scale[:, None], (squares.clamp(min=0) / norms).sqrt())
