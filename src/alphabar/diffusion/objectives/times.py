"""Distributions of the times that are trained on."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from alphabar.diffusion.errors import NeedsContinuousSchedule
from alphabar.diffusion.noise import RankShare
from alphabar.diffusion.objectives import SampledTimes, Times
from alphabar.diffusion.schedules import Schedule


class FixedTimes(Times, ABC):
    """Times that are a function of uniform numbers, and do not learn.

    stratified: instead of one by one, the numbers of a batch are drawn evenly spaced, over all processes, with one random offset:
        each is as uniform as before, but the loss varies less (Kingma et al. 2021, app. I.1).
    """

    def __init__(self, stratified: bool = False) -> None:
        super().__init__()
        self.stratified = stratified

    def uniform(self, num: int, device: torch.device, share: RankShare) -> Tensor:
        """Returns numbers in (0, 1), [num]: at 0 itself, clean data, there is nothing to predict."""
        if not self.stratified:
            return share.rand(num, device).clamp(min=2**-25)
        places = torch.arange(share.rank * num, (share.rank + 1) * num, device=device)
        return ((share.common() + places / (num * share.world_size)) % 1).clamp(min=2**-25)

    def observe(self, level: Tensor, loss: Tensor) -> None:
        pass


class UniformTimes(FixedTimes):
    """Times whose level is uniform: steps 1..T alike (Ho et al. 2020, Alg. 1), t in [0, 1] for flows (Liu et al. 2022)."""

    def forward(self, schedule: Schedule, num: int, device: torch.device, share: RankShare) -> SampledTimes:
        level = self.uniform(num, device, share)
        return SampledTimes(schedule.time(level), level, torch.ones_like(level))


class LogitNormalTimes(FixedTimes):
    """Times at level sigmoid(n), n ~ N(mean, std^2): most in the middle between data and noise (Esser et al. 2024, eq. 19).

    Raises ValueError unless std > 0.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> None:
        super().__init__(stratified)
        if not std > 0:
            raise ValueError(f"need std > 0, got std={std}")
        self.mean, self.std = mean, std

    def forward(self, schedule: Schedule, num: int, device: torch.device, share: RankShare) -> SampledTimes:
        level = torch.sigmoid(normal(self.uniform(num, device, share), self.mean, self.std))
        return SampledTimes(schedule.time(level), level, torch.ones_like(level))


class NoiseTimes(FixedTimes, ABC):
    """Times whose r = sigma / alpha has a given density, whatever the schedule.

    Raises ValueError unless scale > 0; in use, on a discrete schedule, whose few steps cannot follow a density.
    """

    def __init__(self, mean: float, scale: float, stratified: bool) -> None:
        super().__init__(stratified)
        if not scale > 0:
            raise ValueError(f"need a width > 0 of the distribution, got {scale}")
        self.mean, self.scale = mean, scale

    @abstractmethod
    def log_ratio(self, u: Tensor) -> Tensor:
        """Returns ln r at quantile u in (0, 1), the shape of u."""

    def forward(self, schedule: Schedule, num: int, device: torch.device, share: RankShare) -> SampledTimes:
        if schedule.is_discrete:
            raise NeedsContinuousSchedule(
                f"{type(self).__name__}: a density of sigma is undefined on the table of {type(schedule).__name__}"
            )
        t = schedule.time_of(self.log_ratio(self.uniform(num, device, share)).exp())
        return SampledTimes(t, schedule.level(t).clamp(0, 1), torch.ones_like(t))


class LogNormalTimes(NoiseTimes):
    """Times with ln r ~ N(mean, std^2) (Karras et al. 2022, table 1)."""

    def __init__(self, mean: float = -1.2, std: float = 1.2, stratified: bool = False) -> None:
        super().__init__(mean, std, stratified)

    def log_ratio(self, u: Tensor) -> Tensor:
        return normal(u, self.mean, self.scale)


class LaplaceTimes(NoiseTimes):
    """Times with log snr = -2 ln r ~ Laplace(mu, scale) (Hang et al. 2024, table 1)."""

    def __init__(self, mu: float = 0.0, scale: float = 0.5, stratified: bool = False) -> None:
        super().__init__(mu, scale, stratified)

    def log_ratio(self, u: Tensor) -> Tensor:
        tail = (1 - 2 * (u - 0.5).abs()).clamp(min=1e-6)
        return -0.5 * (self.mean - self.scale * torch.sign(0.5 - u) * tail.log())


def normal(u: Tensor, mean: float, std: float) -> Tensor:
    """Returns normal numbers with the quantiles u in (0, 1), cut off at 5 standard deviations."""
    return mean + std * math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 6e-7, 1 - 6e-7))


class ImportanceTimes(Times):
    """Times drawn with p ~ sqrt(E[L_t^2]), and weights 1 / p: the least varying estimate of a sum of very unequal terms, such as
    the bound (Nichol & Dhariwal 2021, eq. 18).

    The levels are cut into `num_bins`, each of which remembers its last `num_losses` losses; until all have as many, and for a
    share `uniform` of the draws ever after, times are uniform. Of several processes, the first one's memory counts.

    Raises ValueError unless num_bins >= 1, num_losses >= 1 and 0 < uniform < 1.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, num_bins: int = 1000, num_losses: int = 10, uniform: float = 0.001) -> None:
        super().__init__()
        if num_bins < 1 or num_losses < 1 or not 0 < uniform < 1:
            raise ValueError(
                "need num_bins >= 1, num_losses >= 1 and 0 < uniform < 1, "
                f"got num_bins={num_bins}, num_losses={num_losses}, uniform={uniform}"
            )
        self.num_bins, self.num_losses, self.uniform = num_bins, num_losses, uniform
        self.register_buffer("losses", torch.zeros(num_bins, num_losses))
        self.register_buffer("counts", torch.zeros(num_bins, dtype=torch.long))

    def probabilities(self) -> Tensor:
        """Returns the probabilities of the bins, [num_bins], whose sum is 1."""
        p = self.losses.square().mean(1).sqrt()
        p = (1 - self.uniform) * p / p.sum().clamp(min=1e-20) + self.uniform / self.num_bins
        is_ready = (self.counts >= self.num_losses).all()
        return torch.where(is_ready, p, torch.full_like(p, 1 / self.num_bins))

    def forward(self, schedule: Schedule, num: int, device: torch.device, share: RankShare) -> SampledTimes:
        p = self.probabilities()
        bins = share.draw(lambda rows, stream: torch.multinomial(p, rows, replacement=True, generator=stream), num, device)
        level = (bins + share.rand(num, device)).clamp(max=self.num_bins * (1 - 6e-8)) / self.num_bins
        return SampledTimes(schedule.time(level), level, 1 / (self.num_bins * p[bins]))

    @torch.no_grad()
    def observe(self, level: Tensor, loss: Tensor) -> None:
        bins = (level * self.num_bins).long().clamp(max=self.num_bins - 1)
        order = bins.argsort(stable=True)
        bins, loss = bins[order], loss[order].float()
        index = torch.arange(len(bins), device=bins.device)
        place = index - torch.searchsorted(bins, bins)  # among those of the same bin
        slots = (self.counts[bins] + place) % self.num_losses
        # Where a bin has more losses than it remembers, those that share a slot all bring the newest one's value.
        newer = (torch.searchsorted(bins, bins, right=True) - 1 - index) // self.num_losses
        newest = loss[index + newer * self.num_losses]
        # One NaN among what is remembered would make all of p NaN ever after.
        self.losses[bins, slots] = torch.where(newest.isfinite(), newest, self.losses[bins, slots])
        self.counts.index_add_(0, bins, torch.ones_like(bins))
