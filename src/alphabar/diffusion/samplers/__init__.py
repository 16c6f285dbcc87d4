"""Samplers: reverse diffusion, from noise to data."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser, Prediction
from alphabar.diffusion.schedules import Schedule
from alphabar.diffusion.thresholdings import Static, Thresholded, Thresholding
from alphabar.diffusion.timesteps import Timesteps, Uniform

Noise = Callable[[Tensor], Tensor]
UNLABELLED = "unlabelled"  # in the metadata of a field: the value that labels leave out, where it is not the default


@dataclass
class Run:
    """The state of one trajectory that is being made, common to its steps.

    noise(like) draws from N(0, 1). times: where the steps lie [N + 1], floats. index: which step is being taken.
    memory: what a multistep sampler keeps of earlier steps, newest last.
    """

    denoiser: Denoiser
    cond: Cond
    noise: Noise
    times: list[float]
    index: int = 0
    memory: list[Any] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def num_steps(self) -> int:
        return len(self.times) - 1

    @property
    def ends_at_data(self) -> bool:
        """Returns whether this step leads to clean data, s = 0, where nothing can be predicted any more."""
        return self.times[self.index + 1] == 0

    @property
    def begins_in_noise(self) -> bool:
        """Returns whether nothing at all is left of the data where the trajectory begins, alpha = 0."""
        first = torch.tensor(self.times[0], dtype=torch.long if self.schedule.is_discrete else torch.float64)
        alpha, _ = self.schedule(first)
        return float(alpha) == 0

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Returns (x_hat, eps_hat, variance) at x_t [B, ...] and t [B]."""
        return self.denoiser(x_t, t, self.cond)

    def move(self, prediction: Prediction, s: Tensor) -> Tensor:
        """Returns x_s = alpha_s * x_hat + sigma_s * eps_hat, an Euler step along the curve (alpha, sigma), on every schedule."""
        alpha_s, sigma_s = self.schedule.at(s, prediction.x_hat)
        return (alpha_s * prediction.x_hat).add_(sigma_s * prediction.eps_hat)


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """A sampler steps from time to time down to data; a leaf says how to take one step.

    num_steps: how many steps, at most as many as a discrete schedule has; None takes all of them.
    timesteps: where they lie. thresholding: how x_hat is kept in the range [-1, 1] of images at every step; None: not at all, as is
        right for data without such a range. Labels leave out the static one, with which DDPM was published.
    """

    num_steps: int | None
    timesteps: Timesteps = Uniform()
    thresholding: Thresholding | None = field(default=None, metadata={UNLABELLED: Static()})

    def __post_init__(self) -> None:
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"need num_steps >= 1, got num_steps={self.num_steps}")

    def times(self, schedule: Schedule) -> Tensor:
        """Returns falling times [N + 1], the last of them 0. Raises ValueError if the schedule does not have them."""
        return self.timesteps(schedule, self.num_steps)

    def label(self, schedule: Schedule) -> str:
        """Returns its name with the number of steps and what is not as by default, such as "ddim50" or "ddim50-eta0.5"."""
        return f"{type(self).__name__.lower()}{len(self.times(schedule)) - 1}{changes(self, ('num_steps',))}"

    @property
    def is_reversible(self) -> bool:
        """Returns whether a step depends on x_t and the times alone, and so can be taken upwards, to s > t: no noise, no memory."""
        return False

    @abstractmethod
    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Returns x_s [B, ...] from x_t [B, ...]; times t and s [B], s < t, all alike, s = 0 where `run.ends_at_data`.

        Raises ValueError if the sampler is not defined on the schedule.
        """

    def start(self, schedule: Schedule, eps: Tensor) -> Tensor:
        """Returns x_T = sigma_T * eps, at the first timestep."""
        _, sigma = schedule.at(on_device(self.times(schedule)[:1], eps), eps)
        return sigma * eps

    def begin(self, denoiser: Denoiser, cond: Cond, noise: Noise, times: Tensor) -> Run:
        """Returns the run along `times` [N + 1], before its first step."""
        return Run(Thresholded(denoiser, self.thresholding) if self.thresholding else denoiser, cond, noise, times.tolist())

    @torch.no_grad()
    def trajectory(
        self,
        denoiser: Denoiser,
        x_T: Tensor,
        cond: Cond = None,
        noise: Noise = torch.randn_like,
        times: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yields x at every timestep, the given x_T [B, ...] first and clean data last.

        times: falling, in place of the sampler's own; they may begin and end anywhere, and rise if the sampler is reversible.
        """
        times = self.times(denoiser.schedule) if times is None else times
        run = self.begin(denoiser, cond, noise, times)
        x_t = x_T
        yield x_t
        for index, (t, s) in enumerate(pairwise(on_device(times, x_T))):
            run.index = index
            x_t = self.step(run, x_t, t.expand(len(x_t)), s.expand(len(x_t)))
            yield x_t

    def sample(
        self, denoiser: Denoiser, x_T: Tensor, cond: Cond = None, noise: Noise = torch.randn_like, times: Tensor | None = None
    ) -> Tensor:
        """Returns clean data [B, ...], the end of `trajectory`."""
        x = x_T
        for x in self.trajectory(denoiser, x_T, cond, noise, times):  # noqa: B007 - the last one is the result
            pass
        return x


def on_device(times: Tensor, like: Tensor) -> Tensor:
    """Returns the times on the device of `like`, float64 ones in the finest type that there is."""
    if times.dtype == torch.float64:
        times = times.to(finest(like))
    return times.to(like.device)


def finest(like: Tensor) -> torch.dtype:
    """Returns float64, but float32 where `like` is on one of Apple's GPUs, which have no float64."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def changes(settings: Any, left_out: tuple[str, ...] = ()) -> str:
    """Returns what differs from the usual values of a dataclass, its defaults where a field names no other, as a label:
    "-eta0.5-karras-rho5.0-nothresholding"."""
    words = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        if item.name in left_out or value == item.metadata.get(UNLABELLED, item.default):
            continue
        if value is None:
            words.append(f"-no{item.name}")
        elif is_dataclass(value):
            words.append(f"-{type(value).__name__.lower()}{changes(value)}")
        else:
            words.append(f"-{item.name}{value}".replace("/", "_"))
    return "".join(words)
