"""What a user can choose from: every YAML file of a group of conf/, so that a part that is added is tested for what it is."""

from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

import runs
from alphabar.config.build import build
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.parameterizations import V
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.schedules import Schedule
from alphabar.diffusion.schedules.continuous import ContinuousSchedule
from alphabar.diffusion.schedules.linear import LinearSchedule
from alphabar.diffusion.timesteps import Timesteps

# What the files of a group take from others; samplers in tests have no thresholding.
AROUND = {
    "space": {"channels": 1, "resolution": 64},
    "timesteps": {"_target_": "alphabar.diffusion.timesteps.Uniform"},
    "thresholding": None,
}


def choices(group: str) -> list[str]:
    """Returns the names of what a group of conf/ offers, sorted."""
    return sorted(path.stem for path in (runs.ROOT / "conf" / group).glob("*.yaml"))


def built(group: str, name: str) -> Any:
    """Returns the object that a file of conf/ describes, with its own defaults."""
    config = OmegaConf.create({**AROUND, group: OmegaConf.load(runs.ROOT / "conf" / group / f"{name}.yaml")})
    return build(config[group], group)


def schedules() -> dict[str, Schedule]:
    """Returns every schedule of conf/schedule, by name."""
    return {name: built("schedule", name) for name in choices("schedule")}


def samplers(num_steps: int, timesteps: Timesteps) -> dict[str, Sampler]:
    """Returns every sampler of conf/sampler with that many steps at these timesteps, by name."""
    return {name: replace(built("sampler", name), num_steps=num_steps, timesteps=timesteps) for name in choices("sampler")}


class Cosine(ContinuousSchedule):
    """A schedule of two functions and no more, alpha = cos(pi t / 2) and sigma = sin(pi t / 2)."""

    def __init__(self) -> None:
        super().__init__(last=0.999)

    def alpha(self, t):
        return torch.cos(torch.pi / 2 * t)

    def sigma(self, t):
        return torch.sin(torch.pi / 2 * t)


class LearnedVariance(nn.Module):
    """A network [B, D] -> [B, 2 D]: another's output, and a variance of the reverse step halfway between its bounds."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x, label, cond=None):
        y = self.network(x, label, cond)
        return torch.cat([y, torch.zeros_like(y)], 1)


class Silent(nn.Module):
    """A network [B, D] that outputs zeros."""

    def forward(self, x, label, cond=None):
        return torch.zeros_like(x)


def complaint(sampler: Sampler, schedule: Schedule) -> str | None:
    """Returns why the sampler is not defined on the schedule, which its first step says by a ValueError, or None if it is."""
    denoiser = NetworkDenoiser(LearnedVariance(Silent()), schedule, V())
    steps = sampler.trajectory(denoiser, torch.zeros(1, 2))
    next(steps)
    try:
        next(steps)
    except ValueError as error:
        return str(error)
    return None


def is_deterministic(sampler: Sampler) -> bool:
    """Returns whether the sampler draws no noise on its way."""
    drawn = []

    def noise(like):
        drawn.append(like)
        return torch.zeros_like(like)

    denoiser = NetworkDenoiser(LearnedVariance(Silent()), LinearSchedule(), V())
    sampler.sample(denoiser, torch.zeros(1, 2), noise=noise)
    return not drawn
