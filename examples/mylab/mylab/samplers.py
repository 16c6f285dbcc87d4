"""A sampler: one step from time t to time s."""

from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.samplers import Run, Sampler


@dataclass(frozen=True, kw_only=True)
class Cool(Sampler):
    """Ancestral sampling with noise of a lower temperature: x_s = mean + temperature * std * z of q(x_s | x_t, x_hat)."""

    num_steps: int | None = 50
    temperature: float = 0.9

    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x_hat = run.predict(x_t, t).x_hat
        mean, variance = run.schedule.q_posterior(x_hat, x_t, t, s)
        return mean + self.temperature * variance.sqrt() * run.noise(x_t)
