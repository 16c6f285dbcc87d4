"""The objective of DDPM and its relatives: regress the network's output on its target."""

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond, NetworkDenoiser
from alphabar.diffusion.objectives import Objective, Terms, Weighting


class Denoising(Objective):
    """w(t) * mean((y(x_t, t) - target)^2), t uniform, x_t = alpha_t * x + sigma_t * eps (Ho et al. 2020, Alg. 1)."""

    def __init__(self, weighting: Weighting) -> None:
        super().__init__()
        self.weighting = weighting

    def forward(self, denoiser: NetworkDenoiser, x: Tensor, cond: Cond = None) -> Terms:
        level = torch.rand(len(x), device=x.device, dtype=torch.float32)
        t = denoiser.schedule.time(level)
        eps = torch.randn_like(x)
        alpha, sigma = denoiser.schedule.at(t, x)
        y = denoiser.output(denoiser.schedule.q_sample(x, t, eps), t, cond)
        error = (y - denoiser.parameterization.target(x, eps, alpha, sigma)).square().flatten(1).mean(1)
        alpha, sigma = denoiser.schedule(t)
        return Terms(self.weighting(alpha, sigma, denoiser.parameterization.determinant(alpha, sigma)) * error, level)
