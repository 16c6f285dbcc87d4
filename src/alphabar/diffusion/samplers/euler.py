"""Euler's method."""

from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.samplers import Run
from alphabar.diffusion.samplers.churn import ChurningSampler


@dataclass(frozen=True, kw_only=True)
class Euler(ChurningSampler):
    """A sampler that solves the probability-flow ODE dx = x_hat dalpha + eps_hat dsigma by first-order steps: on the straight
    schedule x_s = x_t + (s - t) * velocity, on the EDM schedule Karras et al. 2022, Alg. 2 without its correction, without churn
    DDIM.
    """

    num_steps: int | None = 50

    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return run.move(run.predict(*self.churned(run, x_t, t)), s)
