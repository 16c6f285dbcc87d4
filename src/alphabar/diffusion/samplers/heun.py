"""Heun's method."""

from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.samplers import Run
from alphabar.diffusion.samplers.churn import ChurningSampler


@dataclass(frozen=True, kw_only=True)
class Heun(ChurningSampler):
    """A sampler that solves dx = x_hat dalpha + eps_hat dsigma by the trapezoidal rule: second order, two evaluations a step but
    for the last (Karras et al. 2022, Alg. 1, and Alg. 2 with churn; here along the curve (alpha, sigma) of any schedule).
    """

    num_steps: int | None = 18

    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x_t, t = self.churned(run, x_t, t)
        begin = run.predict(x_t, t)
        alpha_s, sigma_s = run.schedule.at(s, x_t)
        x_s = (alpha_s * begin.x_hat).add_(sigma_s * begin.eps_hat)
        if run.ends_at_data:
            return x_s
        end = run.predict(x_s, s)
        alpha_t, sigma_t = run.schedule.at(t, x_t)
        along_x = (begin.x_hat + end.x_hat).mul_(alpha_s - alpha_t).div_(2)
        along_eps = (begin.eps_hat + end.eps_hat).mul_(sigma_s - sigma_t).div_(2)
        return along_x.add_(x_t).add_(along_eps)
