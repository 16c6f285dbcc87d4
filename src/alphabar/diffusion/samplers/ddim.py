"""Denoising diffusion implicit models."""

from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.samplers import Run, Sampler


@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """The sampler x_s = alpha_s * x_hat + sqrt(sigma_s^2 - c^2) * eps_hat + c * z (Song et al. 2021, eq. 12).

    eta: c is eta times the posterior's standard deviation: 0 is deterministic and Euler's method for the probability-flow ODE,
        1 is DDPM and, on the EDM schedule, the ancestral Euler sampler. Raises ValueError outside [0, 1].
    """

    num_steps: int | None = 50
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"need 0 <= eta <= 1, got eta={self.eta}")

    @property
    def is_reversible(self) -> bool:
        return self.eta == 0

    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        prediction = run.predict(x_t, t)
        if self.eta == 0:
            return run.move(prediction, s)
        alpha_s, sigma_s = run.schedule.at(s, x_t)
        _, variance = run.schedule.q_posterior(prediction.x_hat, x_t, t, s)
        variance = self.eta**2 * variance
        direction = (sigma_s**2 - variance).clamp(min=0).sqrt()
        return alpha_s * prediction.x_hat + direction * prediction.eps_hat + variance.sqrt() * run.noise(x_t)
