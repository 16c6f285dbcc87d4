"""Churn: new noise between the steps, which corrects errors of earlier ones."""

from abc import ABC
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.diffusion.errors import NeedsContinuousSchedule
from alphabar.diffusion.samplers import Run, Sampler


@dataclass(frozen=True, kw_only=True)
class ChurningSampler(Sampler, ABC):
    """A sampler that raises the noise before each step (Karras et al. 2022, Alg. 2), in r = sigma / alpha on any schedule.

    churn: S_churn, the noise added over all steps; 0 for none, which makes the sampler deterministic.
    s_min, s_max: only where r lies between them. s_noise: the standard deviation of what is added.
    Raises ValueError unless churn >= 0, 0 <= s_min < s_max and s_noise > 0; in use, for churn on a discrete schedule.
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = float("inf")
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.churn < 0 or not 0 <= self.s_min < self.s_max or not self.s_noise > 0:
            raise ValueError(
                "need churn >= 0, 0 <= s_min < s_max and s_noise > 0, "
                f"got churn={self.churn}, s_min={self.s_min}, s_max={self.s_max}, s_noise={self.s_noise}"
            )

    @property
    def is_reversible(self) -> bool:
        return self.churn == 0

    def churned(self, run: Run, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (x [B, ...], time [B]) with more noise; as they are where there is nothing to add."""
        if self.churn == 0:
            return x_t, t
        if run.schedule.is_discrete:
            raise NeedsContinuousSchedule(
                f"churn={self.churn}: {type(run.schedule).__name__} is a table, between whose steps nothing can be added"
            )
        alpha, sigma = (float(scale) for scale in run.schedule(torch.tensor(run.times[run.index], dtype=torch.float64)))
        z = run.noise(x_t)
        # The noise that is left at the last time of all cannot be raised.
        if alpha == 0 or not self.s_min <= sigma / alpha <= self.s_max:
            return x_t, t
        ratio = sigma / alpha
        raised = ratio * (1 + min(self.churn / run.num_steps, 2**0.5 - 1))
        later = run.schedule.time_of(torch.full_like(t, raised))
        alpha_later, _ = run.schedule.at(later, x_t)
        added = (raised**2 - ratio**2) ** 0.5 * self.s_noise
        return alpha_later * (x_t / alpha + added * z), later
