"""The cosine schedule in continuous time, moved for larger images."""

import math

import torch
from torch import Tensor

from alphabar.diffusion.schedules import Schedule, need_steps


class ShiftedCosineSchedule(Schedule):
    """log snr_t = -2 log(tan(pi t / 2)) + 2 log(base_resolution / resolution), alpha_t^2 + sigma_t^2 = 1, t in [0, 1]
    (Hoogeboom et al. 2023, "simple diffusion", sec. 3.1): noise hides a large image less, as its pixels can be averaged.

    resolution: of the images that are trained on; base_resolution: at which the plain cosine is right, 64 or 32 in the paper.
    max_log_snr: training and sampling keep to times with |log snr| up to this.
    Raises ValueError unless all three are > 0.
    """

    def __init__(self, resolution: int, base_resolution: int = 64, max_log_snr: float = 15.0) -> None:
        super().__init__()
        if min(resolution, base_resolution) < 1 or not max_log_snr > 0:
            raise ValueError(
                "need resolution, base_resolution and max_log_snr > 0, "
                f"got resolution={resolution}, base_resolution={base_resolution}, max_log_snr={max_log_snr}"
            )
        self.ratio = resolution / base_resolution
        low, high = (torch.tensor(math.exp(sign * max_log_snr / 2), dtype=torch.float64) for sign in (-1, 1))
        self.first, self.last = float(self.time_of(low)), float(self.time_of(high))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = torch.cos(math.pi / 2 * t), self.ratio * torch.sin(math.pi / 2 * t)
        length = torch.hypot(alpha, sigma)
        return alpha / length, sigma / length

    def time(self, u: Tensor) -> Tensor:
        return self.first + u * (self.last - self.first)

    def level(self, t: Tensor) -> Tensor:
        return (t - self.first) / (self.last - self.first)

    def speed(self, t: Tensor) -> Tensor:
        # 2 d(angle)/du, tan(angle) = ratio * tan(pi t / 2)
        squared_length = torch.cos(math.pi / 2 * t) ** 2 + (self.ratio * torch.sin(math.pi / 2 * t)) ** 2
        return (self.last - self.first) * math.pi * self.ratio / squared_length

    def label(self, t: Tensor) -> Tensor:
        """1000 * t."""
        return 1000 * t

    def time_of(self, ratio: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(ratio / self.ratio)

    def noise_range(self) -> tuple[float, float]:
        ends = torch.tensor([self.first, self.last], dtype=torch.float64)
        alpha, sigma = self(ends)
        return float(sigma[0] / alpha[0]), float(sigma[1] / alpha[1])

    def timesteps(self, num_steps: int | None) -> Tensor:
        return torch.linspace(self.last, 0, need_steps(num_steps) + 1, dtype=torch.float64)

    def snap(self, times: Tensor) -> Tensor:
        return torch.cat([times, times.new_zeros(1)])
