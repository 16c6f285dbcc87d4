"""The cosine schedule in continuous time, moved for larger images."""

import math

import torch
from torch import Tensor

from alphabar.diffusion.schedules.continuous import ContinuousSchedule, need_steps
from alphabar.resolution import Resolution, sides


class ShiftedCosineSchedule(ContinuousSchedule):
    """The schedule log snr_t = -2 log(tan(pi t / 2)) + 2 log(base_resolution / resolution), alpha_t^2 + sigma_t^2 = 1, t in [0, 1]
    (Hoogeboom et al. 2023, "simple diffusion", sec. 3.1): noise hides a large image less, as its pixels can be averaged.

    resolution: of the images that are trained on, pixels per side or [height, width], which count as the square of as many pixels.
    base_resolution: at which the plain cosine is right, 64 or 32 in the paper.
    max_log_snr: training and sampling keep to times with |log snr| up to this.
    Raises ValueError unless all are > 0.
    """

    def __init__(self, resolution: Resolution, base_resolution: int = 64, max_log_snr: float = 15.0) -> None:
        if base_resolution < 1 or not max_log_snr > 0:
            raise ValueError(
                f"need base_resolution and max_log_snr > 0, got base_resolution={base_resolution}, max_log_snr={max_log_snr}"
            )
        ratio = math.sqrt(math.prod(sides(resolution))) / base_resolution
        low, high = (torch.tensor(math.exp(sign * max_log_snr / 2), dtype=torch.float64) for sign in (-1, 1))
        super().__init__(*(float(2 / math.pi * torch.atan(end / ratio)) for end in (low, high)))
        self.ratio = ratio

    def alpha(self, t: Tensor) -> Tensor:
        return self._cosine(t) / self._length(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._sine(t) / self._length(t)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        # 2 d(angle)/du, tan(angle) = ratio * tan(pi t / 2)
        squared_length = self._cosine(t) ** 2 + self._sine(t) ** 2
        return (self.last - self.first) * math.pi * self.ratio / squared_length

    def time_of(self, ratio: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(ratio / self.ratio)

    def timesteps(self, num_steps: int | None) -> Tensor:
        """Returns times that are even from the last down to 0, data itself."""
        return torch.linspace(self.last, 0, need_steps(num_steps) + 1, dtype=torch.float64)

    def _cosine(self, t: Tensor) -> Tensor:
        return torch.cos(math.pi / 2 * t)

    def _sine(self, t: Tensor) -> Tensor:
        return self.ratio * torch.sin(math.pi / 2 * t)

    def _length(self, t: Tensor) -> Tensor:
        return torch.hypot(self._cosine(t), self._sine(t))
