"""DPM-Solver++, second order, multistep."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.diffusion.samplers import Run, Sampler
from alphabar.diffusion.samplers.log_snr import half_log_snr


@dataclass(frozen=True, kw_only=True)
class DPMpp2M(Sampler):
    """The sampler x_s = sigma_s / sigma_t * e^(-eta h) * x_t + alpha_s * (1 - e^(-(1 + eta) h)) * D + noise, h = lambda_s -
    lambda_t, where D = x_hat + (x_hat - x_hat before) / (2 r) continues x_hat to the middle of the step, r = (h before) / h (Lu et
    al. 2022b, Alg. 2). The last step is of first order.

    eta: 0 solves the ODE, with one evaluation a step; 1 the SDE (their sec. 4.3 and app. C). Raises ValueError outside [0, 1].
    """

    num_steps: int | None = 20
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"need 0 <= eta <= 1, got eta={self.eta}")

    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x_hat = run.predict(x_t, t).x_hat
        at_t, at_s = run.schedule.scales(t), run.schedule.scales(s)
        (_, sigma_t), (alpha_s, sigma_s) = at_t.like(x_t), at_s.like(x_t)
        now, then = half_log_snr(at_t, x_t), half_log_snr(at_s, x_t)
        h = then - now
        direction = x_hat
        if run.memory and not run.ends_at_data:
            earlier, x_hat_before = run.memory[-1]
            direction = (x_hat - x_hat_before).mul_((h / (2 * (now - earlier))).to(x_t.dtype)).add_(x_hat)
        run.memory[:] = [(now, x_hat)]
        gained = -torch.expm1(-(1 + self.eta) * h).to(x_t.dtype)
        if self.eta == 0:
            return (sigma_s / sigma_t * x_t).add_(alpha_s * gained * direction)
        left = (-self.eta * h).exp().to(x_t.dtype)
        added = sigma_s * (-torch.expm1(-2 * self.eta * h)).sqrt().to(x_t.dtype)
        return (sigma_s / sigma_t * left * x_t).add_(alpha_s * gained * direction).add_(added * run.noise(x_t))
