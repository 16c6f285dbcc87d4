"""The schedule of EDM: noise is added, the data is never scaled."""

import torch
from torch import Tensor

from alphabar.diffusion.schedules.continuous import ContinuousSchedule, need_steps


class EDMSchedule(ContinuousSchedule):
    """The schedule alpha_t = 1, sigma_t = t: time is the standard deviation of the noise (Karras et al. 2022, table 1).

    Times are uniform in sigma^(1/rho) from sigma_min to sigma_max, and so are its timesteps (eq. 5).
    Raises ValueError unless 0 < sigma_min < sigma_max and rho > 0.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if not 0 < sigma_min < sigma_max < float("inf"):
            raise ValueError(f"need 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        if not rho > 0:
            raise ValueError(f"need rho > 0, got rho={rho}")
        super().__init__(sigma_min, sigma_max)
        self.rho = rho

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time(self, u: Tensor) -> Tensor:
        return rho_spaced(u, self.first, self.last, self.rho)

    def level(self, t: Tensor) -> Tensor:
        low, high = self.first ** (1 / self.rho), self.last ** (1 / self.rho)
        return ((t ** (1 / self.rho) - low) / (high - low)).clamp(0, 1)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        low, high = self.first ** (1 / self.rho), self.last ** (1 / self.rho)
        return 2 * self.rho * (high - low) * t ** (1 - 1 / self.rho)  # 2 dt/du

    def label(self, t: Tensor) -> Tensor:
        """Returns 250 * ln(t): the c_noise of Karras et al. times 1000, for networks that do not get c_noise itself."""
        return 250 * t.log()

    def time_of(self, ratio: Tensor) -> Tensor:
        return ratio

    def timesteps(self, num_steps: int | None) -> Tensor:
        """Returns sigma_i = (sigma_max^(1/rho) + i / (N - 1) * (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, and sigma_N = 0."""
        return self.snap(self.time(torch.linspace(1, 0, need_steps(num_steps), dtype=torch.float64)))


def rho_spaced(u: Tensor, low: float, high: float, rho: float) -> Tensor:
    """Returns (low^(1/rho) + u * (high^(1/rho) - low^(1/rho)))^rho, low at u = 0 and high at u = 1 (Karras et al. 2022, eq. 5)."""
    return (low ** (1 / rho) + u * (high ** (1 / rho) - low ** (1 / rho))) ** rho
