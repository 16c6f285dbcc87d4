"""Denoising diffusion implicit models."""

from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser
from alphabar.diffusion.samplers import Noise, Sampler


@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """x_s = alpha_s * x_hat + sqrt(sigma_s^2 - c^2) * eps_hat + c * z (Song et al. 2021, eq. 12).

    eta: c is eta times the posterior's standard deviation: 0 is deterministic, 1 is DDPM. Raises ValueError outside [0, 1].
    """

    num_steps: int | None = 50
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"need 0 <= eta <= 1, got eta={self.eta}")

    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond, noise: Noise) -> Tensor:
        x_hat, eps_hat = denoiser(x_t, t, cond)
        alpha_s, sigma_s = denoiser.schedule.at(s, x_t)
        if self.eta == 0:
            return alpha_s * x_hat + sigma_s * eps_hat
        _, variance = denoiser.schedule.q_posterior(x_hat, x_t, t, s)
        variance = self.eta**2 * variance
        return alpha_s * x_hat + (sigma_s**2 - variance).clamp(min=0).sqrt() * eps_hat + variance.sqrt() * noise(x_t)
