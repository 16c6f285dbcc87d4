"""What is tested against: data whose exact denoiser is known."""

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser, Prediction
from alphabar.diffusion.schedules import Schedule


class GaussianDenoiser(Denoiser):
    """E[x | x_t] for data N(mean, std^2) in every dimension: the posterior mean of a product of two Gaussians."""

    def __init__(self, schedule: Schedule, mean: float, std: float) -> None:
        super().__init__()
        self.schedule = schedule
        self.mean = mean
        self.std = std

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        alpha, sigma = self.schedule.at(t, x_t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        x_hat = self.mean + gain * (x_t - alpha * self.mean)
        return Prediction(x_hat, (x_t - alpha * x_hat) / sigma)


def seeded(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
