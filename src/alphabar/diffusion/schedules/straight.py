"""The schedule of rectified flow: straight lines between data and noise."""

from torch import Tensor

from alphabar.diffusion.schedules.continuous import ContinuousSchedule


class StraightSchedule(ContinuousSchedule):
    """The schedule alpha_t = 1 - t, sigma_t = t, t in [0, 1] (Liu et al. 2022; Lipman et al. 2022, with sigma_min = 0).

    shift: larger images need more noise: level u becomes t = shift * u / (1 + (shift - 1) * u), in training and in sampling alike,
        shift = sqrt(pixels / pixels of the images that 1 is right for) (Esser et al. 2024, eq. 23).
    Raises ValueError unless shift > 0.
    """

    def __init__(self, shift: float = 1.0) -> None:
        super().__init__()
        if not shift > 0:
            raise ValueError(f"need shift > 0, got shift={shift}")
        self.shift = shift

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time(self, u: Tensor) -> Tensor:
        return self.shift * u / (1 + (self.shift - 1) * u)

    def level(self, t: Tensor) -> Tensor:
        return t / (self.shift - (self.shift - 1) * t)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        return 2 * (self.shift - (self.shift - 1) * t) ** 2 / self.shift  # 2 dt/du

    def time_of(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + 1 / ratio)  # of inf, too
