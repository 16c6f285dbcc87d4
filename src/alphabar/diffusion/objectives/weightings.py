"""Weightings of the noise levels."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.objectives import Weighting
from alphabar.diffusion.schedules import Scales


class FixedWeighting(Weighting, ABC):
    """A weighting w(alpha, sigma) * error whose weight does not learn."""

    @abstractmethod
    def weight(self, alpha: Tensor, sigma: Tensor, determinant: Tensor) -> Tensor:
        """Returns the weight [B] of the squared error of y, from the scales and the parameterization's determinant, each [B]."""

    def forward(self, error: Tensor, scales: Scales, denoiser: NetworkDenoiser) -> Tensor:
        _, alpha, sigma = scales
        return self.weight(alpha, sigma, denoiser.parameterization.determinant(alpha, sigma)) * error


class UniformWeighting(FixedWeighting):
    """The weighting w = 1 on the network's own output: L_simple (Ho et al. 2020, eq. 14)."""

    def weight(self, alpha: Tensor, sigma: Tensor, determinant: Tensor) -> Tensor:
        return torch.ones_like(alpha)


class MinSNR(FixedWeighting):
    """The weighting w = min(snr, gamma) on x_hat (Hang et al. 2023, sec. 3.4), translated to whatever the network outputs.

    Raises ValueError unless gamma > 0.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"need gamma > 0, got gamma={gamma}")
        self.gamma = gamma

    def weight(self, alpha: Tensor, sigma: Tensor, determinant: Tensor) -> Tensor:
        return ((alpha / sigma) ** 2).clamp(max=self.gamma) * (sigma / determinant) ** 2


class SoftMinSNR(FixedWeighting):
    """The weighting w = snr * gamma / (snr + gamma) on x_hat: min-SNR without its kink (Crowson et al. 2024, sec. 4.2).

    Raises ValueError unless gamma > 0.
    """

    def __init__(self, gamma: float = 4.0) -> None:
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"need gamma > 0, got gamma={gamma}")
        self.gamma = gamma

    def weight(self, alpha: Tensor, sigma: Tensor, determinant: Tensor) -> Tensor:
        # alpha^2 gamma / (alpha^2 + gamma sigma^2): finite where sigma is 0, too.
        return alpha**2 * self.gamma / (alpha**2 + self.gamma * sigma**2) * (sigma / determinant) ** 2


class P2(FixedWeighting):
    """The weighting w = 1 / (k + snr)^gamma on eps_hat: less on levels where only imperceptible detail is left (Choi et al. 2022,
    eq. 8).

    Raises ValueError unless k > 0 and gamma >= 0.
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__()
        if not k > 0 or gamma < 0:
            raise ValueError(f"need k > 0 and gamma >= 0, got k={k}, gamma={gamma}")
        self.k, self.gamma = k, gamma

    def weight(self, alpha: Tensor, sigma: Tensor, determinant: Tensor) -> Tensor:
        # The error of eps_hat is alpha / determinant times that of y.
        return (self.k + (alpha / sigma) ** 2) ** -self.gamma * (alpha / determinant) ** 2


class Sigmoid(Weighting):
    """The weighting 1/2 * sigmoid(bias - log snr) * (-d log snr / dt) on eps_hat, t even in [0, 1] (Kingma & Gao 2023, eq. 2 and
    sec. 4; Hoogeboom et al. 2024, sec. 3.1): an integral over log snr, so that the schedule decides how precisely, not how much, a
    level counts. That is so with UniformTimes; others, such as LogitNormalTimes, weigh on top of it.
    """

    def __init__(self, bias: float = -1.0) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, error: Tensor, scales: Scales, denoiser: NetworkDenoiser) -> Tensor:
        t, alpha, sigma = scales
        # sigmoid(b - log snr) = sigma^2 / (sigma^2 + e^-b alpha^2), -d log snr / dt = rate / (alpha sigma): finite at both ends.
        weight = 0.5 * alpha * sigma * denoiser.schedule.log_snr_rate(t) / (sigma**2 + math.exp(-self.bias) * alpha**2)
        return weight / denoiser.parameterization.determinant(alpha, sigma) ** 2 * error


class LearnedUncertainty(Weighting):
    """The loss error / exp(u) + u, u = u(ln(sigma / alpha) / 4) learned along: every level comes to contribute a loss of about 1
    (Karras et al. 2024, "EDM2", eq. 15). It is a linear map of random Fourier features, 0 at first.

    num_channels: of the features. Raises ValueError unless num_channels >= 1.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, num_channels: int = 128) -> None:
        super().__init__()
        if num_channels < 1:
            raise ValueError(f"need num_channels >= 1, got num_channels={num_channels}")
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(num_channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels))
        self.linear = nn.Linear(num_channels, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def uncertainty(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns u [B] at the scales [B]; where nothing of the data or of the noise is left, as at a ratio of 1e6."""
        label = (sigma / alpha).clamp(1e-6, 1e6).log() / 4
        with torch.autocast(label.device.type, enabled=False):
            features = math.sqrt(2) * torch.cos(label.float()[:, None] * self.frequencies + self.phases)
            return self.linear(features)[:, 0]

    def forward(self, error: Tensor, scales: Scales, denoiser: NetworkDenoiser) -> Tensor:
        u = self.uncertainty(scales.alpha, scales.sigma)
        return error / u.exp() + u
