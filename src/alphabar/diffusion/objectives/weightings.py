"""Weightings of the noise levels."""

import torch
from torch import Tensor

from alphabar.diffusion.objectives import Weighting


class Uniform(Weighting):
    """w = 1 on the network's own output: L_simple (Ho et al. 2020, eq. 14)."""

    def forward(self, alpha: Tensor, sigma: Tensor, determinant: Tensor) -> Tensor:
        return torch.ones_like(alpha)


class MinSNR(Weighting):
    """w = min(snr, gamma) on x_hat (Hang et al. 2023, sec. 3.4), translated to whatever the network outputs.

    Raises ValueError unless gamma > 0.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"need gamma > 0, got gamma={gamma}")
        self.gamma = gamma

    def forward(self, alpha: Tensor, sigma: Tensor, determinant: Tensor) -> Tensor:
        return ((alpha / sigma) ** 2).clamp(max=self.gamma) * (sigma / determinant) ** 2
