"""What is tested against: data whose exact denoiser is known."""

import math

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond, Denoiser, Prediction
from alphabar.diffusion.parameterizations import EDM
from alphabar.diffusion.schedules import Schedule
from alphabar.diffusion.schedules.edm import EDMSchedule

BYTES = torch.arange(256, dtype=torch.float64) / 127.5 - 1


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

    def exact(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s where the probability-flow ODE leads from x_t, in closed form: the same quantile of another Gaussian."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule.at(t, x_t), self.schedule.at(s, x_t)
        std_t, std_s = ((alpha**2 * self.std**2 + sigma**2).sqrt() for alpha, sigma in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
        return alpha_s * self.mean + std_s / std_t * (x_t - alpha_t * self.mean)


class MixtureDenoiser(Denoiser):
    """E[x | x_t] for data of D independent dimensions, each a mixture of K Gaussians: weights, means and stds [D, K]."""

    def __init__(self, schedule: Schedule, weights: Tensor, means: Tensor, stds: Tensor) -> None:
        super().__init__()
        self.schedule = schedule
        self.weights, self.means, self.stds = weights, means, stds

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        alpha, sigma = self.schedule.at(t, x_t)
        weights, means, stds = (value.to(x_t.dtype) for value in (self.weights, self.means, self.stds))
        variance = alpha[..., None] ** 2 * stds**2 + sigma[..., None] ** 2  # [B, 1, K] or [B, D, K]
        off = x_t[..., None] - alpha[..., None] * means
        responsible = (weights.log() - 0.5 * variance.log() - 0.5 * off**2 / variance).softmax(-1)
        x_hat = (responsible * (means + alpha[..., None] * stds**2 / variance * off)).sum(-1)
        return Prediction(x_hat, (x_t - alpha * x_hat) / sigma)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """[num, D] of data."""
        picked = torch.stack([torch.multinomial(row, num, True, generator=generator) for row in self.weights], 1)
        pick = lambda values: values.expand(num, -1, -1).gather(2, picked[..., None])[..., 0]  # noqa: E731
        return pick(self.means) + pick(self.stds) * torch.randn(num, len(self.means), generator=generator)


class OracleNetwork(nn.Module):
    """A network that outputs the exact y under a parameterization; it knows the time from its label alone."""

    def __init__(self, exact: Denoiser, parameterization) -> None:
        super().__init__()
        self.exact = exact
        self.parameterization = parameterization

    def forward(self, x: Tensor, label: Tensor, cond: Cond = None) -> Tensor:
        schedule = self.exact.schedule
        if isinstance(self.parameterization, EDM):
            t = schedule.time_of((4 * label.double() / self.parameterization.label_scale).exp())
        elif schedule.is_discrete:
            t = label.long() + 1
        else:
            t = (label.double() / 250).exp() if isinstance(schedule, EDMSchedule) else label.double() / 1000
        alpha, sigma = schedule.at(t, x)
        if isinstance(self.parameterization, EDM):
            x = x * self.parameterization.length(alpha, sigma)
        return self.parameterization.target(*self.exact(x, t)[:2], alpha, sigma)


def seeded(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def log_normal(z: Tensor | float, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """log N(z; mean, variance), of which at least one is a tensor."""
    return -0.5 * ((z - mean) ** 2 / variance + torch.as_tensor(2 * math.pi * variance, dtype=torch.float64).log())
