"""Timesteps: the times of a schedule at which a sampler evaluates the denoiser."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.diffusion.errors import NeedsNoiseRange, NeedsNumSteps
from alphabar.diffusion.schedules import Schedule
from alphabar.diffusion.schedules.edm import rho_spaced
from alphabar.files.paths import user_path


@dataclass(frozen=True)
class Timesteps(ABC):
    """A rule that gives falling times of a schedule, from noise to data."""

    @abstractmethod
    def __call__(self, schedule: Schedule, num_steps: int | None) -> Tensor:
        """Returns `num_steps` + 1 falling times, the last of them 0; None takes every step of a discrete schedule.

        Raises ValueError if the schedule does not have as many.
        """


@dataclass(frozen=True)
class Uniform(Timesteps):
    """Timesteps that are even in the schedule's own time, its `level`; on the EDM schedule these are Karras et al. 2022, eq. 5."""

    def __call__(self, schedule: Schedule, num_steps: int | None) -> Tensor:
        return schedule.timesteps(num_steps)


@dataclass(frozen=True)
class Quadratic(Timesteps):
    """Timesteps t_i = t_0 * (1 - i / N)^2, more of them close to data (Song et al. 2021, DDIM, app. D.2)."""

    def __call__(self, schedule: Schedule, num_steps: int | None) -> Tensor:
        level = falling(num_steps, "Quadratic")
        return schedule.snap(float(schedule.time(torch.ones(1, dtype=torch.float64))) * level**2)


@dataclass(frozen=True)
class NoiseLevelTimesteps(Timesteps, ABC):
    """Timesteps that are spaced in r = sigma / alpha, from `sigma_max` to `sigma_min`; None takes the schedule's own.

    Raises ValueError unless 0 < sigma_min < sigma_max, and where the schedule's own are not finite and > 0.
    """

    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        low = math.ulp(0) if self.sigma_min is None else self.sigma_min
        high = math.inf if self.sigma_max is None else self.sigma_max
        if not 0 < low < high:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got sigma_min={self.sigma_min}, sigma_max={self.sigma_max}")

    @abstractmethod
    def spaced(self, u: Tensor, low: float, high: float) -> Tensor:
        """Returns r at u in [0, 1], `low` at 0 and `high` at 1, the shape of u."""

    def __call__(self, schedule: Schedule, num_steps: int | None) -> Tensor:
        name = type(self).__name__
        first, last = schedule.noise_range()
        low = first if self.sigma_min is None else self.sigma_min
        high = last if self.sigma_max is None else self.sigma_max
        if not 0 < low < high < math.inf:
            raise NeedsNoiseRange(
                f"timesteps {name}: need 0 < sigma_min < sigma_max < inf, which for this schedule are {low:g} and {high:g}"
            )
        level = falling(num_steps, name)
        level = (level - level[-1]) / (1 - level[-1]) if len(level) > 1 else level  # 1 to 0, both included
        return schedule.snap(schedule.time_of(self.spaced(level, low, high)))


@dataclass(frozen=True)
class Karras(NoiseLevelTimesteps):
    """Timesteps that are even in r^(1/rho) (Karras et al. 2022, eq. 5). Raises ValueError unless rho > 0."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rho > 0:
            raise ValueError(f"need rho > 0, got rho={self.rho}")

    def spaced(self, u: Tensor, low: float, high: float) -> Tensor:
        return rho_spaced(u, low, high, self.rho)


@dataclass(frozen=True)
class LogSNR(NoiseLevelTimesteps):
    """Timesteps that are even in log snr = -2 log r (Lu et al. 2022, DPM-Solver, sec. 3.3)."""

    def spaced(self, u: Tensor, low: float, high: float) -> Tensor:
        return (math.log(low) + u * (math.log(high) - math.log(low))).exp()


@dataclass(frozen=True)
class FromFile(Timesteps):
    """Timesteps whose r = sigma / alpha stand in a text file, falling, one a line, as those found by optimisation: Align Your Steps
    (Sabour et al. 2024). Another number of steps is interpolated in log scale, as they advise.

    path: the file. A last 0 may stand there or not; what follows a # is a comment.
    Raises ValueError if there is no such file, or for anything in it but falling numbers > 0.
    """

    path: str

    def __call__(self, schedule: Schedule, num_steps: int | None) -> Tensor:
        ratios = self._ratios()
        if num_steps is not None and num_steps != len(ratios):
            place = falling(num_steps, "FromFile")
            place = (1 - (place - place[-1]) / (1 - place[-1])) * (len(ratios) - 1) if num_steps > 1 else place * 0
            below = place.floor().long().clamp(max=max(len(ratios) - 2, 0))
            logs = torch.cat([ratios, ratios[-1:]]).log()
            ratios = torch.lerp(logs[below], logs[below + 1], place - below).exp()
        return schedule.snap(schedule.time_of(ratios))

    def _ratios(self) -> Tensor:
        """Returns the numbers of the file, float64 [N]. Raises ValueError as the class does."""
        file = user_path(self.path)
        if not file.is_file():
            raise ValueError(f"timesteps: path={self.path}: no such file; it has sigma / alpha of each step, one a line")
        try:
            words = [word for line in file.read_text(encoding="utf-8").splitlines() for word in line.split("#")[0].split()]
            ratios = torch.tensor([float(word) for word in words], dtype=torch.float64)
        except ValueError as error:
            raise ValueError(f"timesteps: path={self.path}: need one number a line, {error}") from error
        ratios = ratios[:-1] if len(ratios) > 1 and ratios[-1] == 0 else ratios
        if len(ratios) == 0 or not (ratios > 0).all() or not ratios.isfinite().all() or not (ratios.diff() < 0).all():
            raise ValueError(f"timesteps: path={self.path}: need falling numbers > 0, got {', '.join(words[:5]) or 'none'}")
        return ratios


def falling(num_steps: int | None, name: str) -> Tensor:
    """Returns 1 - i / N for i = 0 .. N - 1, float64 [N]. Raises ValueError unless N = num_steps >= 1."""
    if num_steps is None or num_steps < 1:
        error = NeedsNumSteps if num_steps is None else ValueError
        raise error(f"timesteps {name}: need num_steps >= 1, got num_steps={num_steps}")
    return 1 - torch.arange(num_steps, dtype=torch.float64) / num_steps
