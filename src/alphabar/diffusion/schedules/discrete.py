"""Schedules over steps 1..T: a table of betas and what follows from it."""

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor

from alphabar.diffusion.description import describe_tensors
from alphabar.diffusion.schedules import Schedule


def rescale_to_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Returns alpha_bar [T] with its root shifted and scaled so that the last is 0 and the first stays (Lin et al. 2023)."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


class DiscreteSchedule(Schedule):
    """A variance-preserving process of T steps: alpha_bar_t = prod_{i <= t} (1 - beta_i), sigma_t^2 = 1 - alpha_bar_t.

    Buffers, built in float64 and kept in float32 whatever the module is cast to: `betas` [T], with betas[t - 1] the beta of
    step t, and `alpha_bar` [T + 1], with alpha_bar[0] = 1 for clean data, so that no table of "previous" values is needed.

    Raises ValueError for betas outside (0, 1]; only the last may be 1 (zero terminal SNR).
    """

    is_discrete: ClassVar[bool] = True
    betas: Tensor
    alpha_bar: Tensor
    alpha: Tensor
    sigma: Tensor
    turn: Tensor

    def __init__(self, betas: Tensor, zero_terminal_snr: bool = False) -> None:
        super().__init__()
        if not isinstance(betas, Tensor) or betas.ndim != 1:
            raise ValueError(f"need betas as a tensor [T], one number for each step, got {describe_tensors(betas)}")
        betas = betas.double()
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        if zero_terminal_snr:
            if len(betas) < 2:
                raise ValueError(f"need num_steps >= 2 for zero_terminal_snr, got num_steps={len(betas)}")
            alpha_bar = rescale_to_zero_terminal_snr(alpha_bar)
            betas = 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        if not (betas[:-1] < 1).all() or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError(f"need every beta in (0, 1), got betas from {betas.min():g} to {betas.max():g}")
        alpha_bar = torch.cat([alpha_bar.new_ones(1), alpha_bar])
        self.register_buffer("betas", betas.float())
        self.register_buffer("alpha_bar", alpha_bar.float())
        # From float64: 1 - alpha_bar in float32 has lost three digits where t is small.
        self.register_buffer("alpha", alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - alpha_bar).sqrt().float(), persistent=False)
        angle = torch.atan2((1 - alpha_bar).sqrt(), alpha_bar.sqrt())
        (turn,) = torch.gradient(angle)  # differences of both neighbours, at the ends of one
        self.register_buffer("turn", turn.float(), persistent=False)

    @property
    def num_steps(self) -> int:
        """Returns T, the number of steps."""
        return len(self.betas)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Moves, but never rounds: in bfloat16 a thousand steps collapse to about five hundred.
        return super()._apply(lambda buffer: buffer.to(fn(buffer[:0]).device), recurse)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (alpha_t, sigma_t) for integer t in 0..T, the shape of t."""
        return self.alpha[t], self.sigma[t]

    def time(self, u: Tensor) -> Tensor:
        """Returns the step 1..T of each level; each step has an equal share of [0, 1]."""
        return (u * self.num_steps).long().clamp(max=self.num_steps - 1) + 1

    def level(self, t: Tensor) -> Tensor:
        """Returns the middle of the share of [0, 1] that `time` maps to step t."""
        return (t - 0.5) / self.num_steps

    def log_snr_rate(self, t: Tensor) -> Tensor:
        """Returns 2 d(angle)/du, where alpha = cos(angle) and sigma = sin(angle), by differences between steps."""
        return 2 * self.num_steps * self.turn[t]

    def label(self, t: Tensor) -> Tensor:
        """Returns t - 1: the first step has label 0, as in published checkpoints."""
        return (t - 1).float()

    def ratios(self) -> Tensor:
        """Returns sigma / alpha of the steps 1..T, float64 [T] on the CPU, rising; the last is inf with zero terminal SNR."""
        alpha_bar = self.alpha_bar[1:].cpu().double()
        return self.sigma[1:].cpu().double() / alpha_bar.sqrt()

    def time_of(self, ratio: Tensor) -> Tensor:
        ratios = self.ratios()
        borders = (ratios[:-1] * ratios[1:]).sqrt()
        steps = torch.searchsorted(borders, ratio.detach().cpu().double().contiguous(), right=True) + 1
        return steps.to(ratio.device)

    def noise_range(self) -> tuple[float, float]:
        ratios = self.ratios()
        return float(ratios[0]), float(ratios[-1])

    def timesteps(self, num_steps: int | None) -> Tensor:
        """Returns evenly spaced steps that begin at T itself ("trailing" in Lin et al. 2023, table 2) and end at 0."""
        num_steps = self.num_steps if num_steps is None else num_steps
        self._must_have(num_steps)
        steps = torch.linspace(self.num_steps, 0, num_steps + 1, dtype=torch.float64)
        return steps.round().long().to(self.betas.device)

    def snap(self, times: Tensor) -> Tensor:
        """Returns the nearest steps; where several fall together, those with more noise make room by moving up, or down from T."""
        self._must_have(len(times))
        upwards = torch.arange(len(times), 0, -1)  # the least that each step can be
        steps = times.detach().cpu().double().round().long().clamp(1, self.num_steps)
        steps = (steps - upwards).flip(0).cummax(0).values.flip(0) + upwards
        downwards = torch.arange(len(times))
        steps = (steps.clamp(max=self.num_steps) + downwards).cummin(0).values - downwards
        return torch.cat([steps, steps.new_zeros(1)]).to(self.betas.device)

    def _must_have(self, num_steps: int) -> None:
        """Raises ValueError unless the schedule has as many steps."""
        if not 1 <= num_steps <= self.num_steps:
            raise ValueError(f"need 1 <= num_steps <= {self.num_steps}, the schedule's own, got num_steps={num_steps}")
