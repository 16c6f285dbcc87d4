"""Ancestral sampling."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser
from alphabar.diffusion.samplers import Noise, Sampler


@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """x_s ~ N(mean of q(x_s | x_t, x_hat), variance) (Ho et al. 2020, Alg. 2, over any subset of the steps).

    variance: "posterior", that of q(x_s | x_t, x), right for data at one point, or "beta", that of q(x_t | x_s), right for
    normal data (Ho et al. 2020, sec. 3.2). The last step adds no noise.
    """

    num_steps: int | None = None
    variance: Literal["posterior", "beta"] = "posterior"

    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond, noise: Noise) -> Tensor:
        mean, variance = denoiser.schedule.q_posterior(denoiser(x_t, t, cond).x_hat, x_t, t, s)
        if self.variance == "beta":
            _, sigma_s = denoiser.schedule.at(s, x_t)
            variance = denoiser.schedule.q_transition(t, s, x_t)[1] * (sigma_s > 0)
        return mean + variance.sqrt() * noise(x_t)
