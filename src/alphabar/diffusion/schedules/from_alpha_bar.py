"""Schedules that state alpha_bar as a function of u = t / T and take the betas from it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alphabar.diffusion.schedules.discrete import DiscreteSchedule


def betas_from(alpha_bar: Callable[[Tensor], Tensor], num_steps: int, max_beta: float) -> Tensor:
    """Returns beta_t = min(1 - alpha_bar(t / T) / alpha_bar((t - 1) / T), max_beta), float64 [T] (Nichol & Dhariwal 2021, eq. 17).

    Raises ValueError unless num_steps >= 1 and 0 < max_beta < 1.
    """
    if num_steps < 1:
        raise ValueError(f"need num_steps >= 1, got num_steps={num_steps}")
    if not 0 < max_beta < 1:
        raise ValueError(f"need 0 < max_beta < 1, got max_beta={max_beta}")
    values = alpha_bar(torch.arange(num_steps + 1, dtype=torch.float64) / num_steps)
    return (1 - values[1:] / values[:-1]).clamp(max=max_beta)


class CosineSchedule(DiscreteSchedule):
    """The schedule alpha_bar(u) = f(u) / f(0), f(u) = cos^2(pi/2 * (u + offset) / (1 + offset)) (Nichol & Dhariwal 2021, eq. 17).

    `offset` keeps the first betas from being too small to matter; `max_beta` keeps the last below a singularity.
    Raises ValueError unless num_steps >= 1, offset >= 0 and 0 < max_beta < 1.
    """

    def __init__(
        self,
        num_steps: int = 1000,
        offset: float = 0.008,
        max_beta: float = 0.999,
        zero_terminal_snr: bool = False,
    ) -> None:
        if offset < 0:
            raise ValueError(f"need offset >= 0, got offset={offset}")

        def alpha_bar(u: Tensor) -> Tensor:
            return torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2

        super().__init__(betas_from(alpha_bar, num_steps, max_beta), zero_terminal_snr)


class SigmoidSchedule(DiscreteSchedule):
    """The schedule alpha_bar(u) = (S(end) - S(u)) / (S(end) - S(start)) with S(z) = sigmoid(z / temperature), u from start to end
    (Jabri et al. 2022, Alg. 1; start = -3, end = 3 as in Chen 2023, table 1).

    Raises ValueError unless num_steps >= 1, start < end, temperature > 0 and 0 < max_beta < 1.
    """

    def __init__(
        self,
        num_steps: int = 1000,
        start: float = -3.0,
        end: float = 3.0,
        temperature: float = 1.0,
        max_beta: float = 0.999,
        zero_terminal_snr: bool = False,
    ) -> None:
        if not start < end:
            raise ValueError(f"need start < end, got start={start}, end={end}")
        if not temperature > 0:
            raise ValueError(f"need temperature > 0, got temperature={temperature}")

        def alpha_bar(u: Tensor) -> Tensor:
            ends = torch.sigmoid(torch.tensor([start, end], dtype=torch.float64) / temperature)
            return (ends[1] - torch.sigmoid((start + u * (end - start)) / temperature)) / (ends[1] - ends[0])

        super().__init__(betas_from(alpha_bar, num_steps, max_beta), zero_terminal_snr)


class LaplaceSchedule(DiscreteSchedule):
    """The schedule log snr(u) = mu - b * sign(1/2 - u) * log(1 - 2 |u - 1/2|), alpha_bar = sigmoid(log snr): most steps around log
    snr = mu (Hang et al. 2024, "Improved Noise Schedule for Diffusion Training", table 1).

    Their scale of 0.5 never gets past a ratio of 22 in 1000 steps, too noisy to sample from: `LaplaceTimes` trains with it.
    Raises ValueError unless num_steps >= 2, scale > 0 and 0 < max_beta < 1.
    """

    def __init__(
        self,
        num_steps: int = 1000,
        mu: float = 0.0,
        scale: float = 1.0,
        max_beta: float = 0.999,
        zero_terminal_snr: bool = False,
    ) -> None:
        if num_steps < 2:
            raise ValueError(f"need num_steps >= 2, got num_steps={num_steps}")
        if not scale > 0:
            raise ValueError(f"need scale > 0, got scale={scale}")

        def alpha_bar(u: Tensor) -> Tensor:
            log_snr = mu - scale * torch.sign(0.5 - u) * torch.log(1 - 2 * (u - 0.5).abs())
            return torch.sigmoid(log_snr)

        super().__init__(betas_from(alpha_bar, num_steps, max_beta), zero_terminal_snr)
