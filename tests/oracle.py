"""Data whose exact denoiser is known, to test against."""

import math
from dataclasses import dataclass

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


class ConditionalGaussianDenoiser(Denoiser):
    """E[x | x_t, cond] for data N(mean, std^2) in every dimension, where the condition says which: cond["vector"] [B, 2]."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        assert cond is not None
        moments = cond["vector"].to(x_t.dtype)
        assert len(moments) == len(x_t)
        mean, std = (value.view(-1, *(1,) * (x_t.ndim - 1)) for value in moments.unbind(1))
        alpha, sigma = self.schedule.at(t, x_t)
        x_hat = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)
        return Prediction(x_hat, (x_t - alpha * x_hat) / sigma)


@dataclass(frozen=True)
class GuidedGaussian:
    """What guidance of that weight makes of N(mean, std^2) against N(0, wide^2), and where its probability-flow ODE leads.

    p_t = N(alpha mean, v_c)^weight N(0, v_0)^(1 - weight) up to a constant, with v = alpha^2 std^2 + sigma^2: normal at every t, but
    the noisy versions of no one distribution of data.
    """

    mean: float
    std: float
    wide: float
    weight: float

    def score(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """d log p_t / dx_t = (mean_t - x_t) / var_t, from the product of both densities."""
        narrow, wide = (alpha**2 * std**2 + sigma**2 for std in (self.std, self.wide))
        precision = self.weight / narrow + (1 - self.weight) / wide
        return precision * (self.weight * alpha * self.mean / narrow / precision - x_t)

    def end(self, x_T: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x at data of the trajectory that begins in x_T at (alpha, sigma).

        With z = x_t / alpha_t and r = sigma_t / alpha_t, dz/dr = -r * score. Its homogeneous solution is length(1, r), below; the rest is
        an integral over the angle from data to (alpha, sigma), by Simpson's rule.
        """
        theta = torch.linspace(0, 1, 20001, dtype=torch.float64) * torch.atan2(sigma, alpha).double()
        cosine, sine = theta.cos(), theta.sin()
        integrand = self.weight * self.mean * sine / (cosine**2 * self.std**2 + sine**2) / self.length(cosine, sine)
        simpson = torch.full_like(theta, 2.0)
        simpson[1::2] = 4.0
        simpson[[0, -1]] = 1.0
        integral = (simpson * integrand).sum() * theta[-1] / 20000 / 3
        return self.length(torch.ones(()), torch.zeros(())) * (x_T / self.length(alpha, sigma) + integral)

    def length(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """v_c^(weight / 2) * v_0^((1 - weight) / 2)."""
        narrow, wide = (alpha**2 * std**2 + sigma**2 for std in (self.std, self.wide))
        return narrow ** (self.weight / 2) * wide ** ((1 - self.weight) / 2)


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
        return self.parameterization.target(*self.exact(x, t, cond)[:2], alpha, sigma)


def seeded(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def log_normal(z: Tensor | float, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """log N(z; mean, variance), of which at least one is a tensor."""
    return -0.5 * ((z - mean) ** 2 / variance + torch.as_tensor(2 * math.pi * variance, dtype=torch.float64).log())
