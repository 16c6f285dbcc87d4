"""Inpainting: filling in what is missing of an image, with a model that knows nothing of masks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser
from alphabar.diffusion.samplers import Noise, Sampler, on_device


@dataclass(frozen=True)
class RePaint:
    """Inpainting by x_s = known * (alpha_s * x + sigma_s * eps) + (1 - known) * (a step of the sampler from x_t), again and again
    (Lugmayr et al. 2022, Alg. 1).

    Each step but the last is taken `num_resamples` times, with x_t ~ q(x_t | x_s) in between: what is filled in adapts to what is
    known, which a single pass hardly lets it do.

    num_resamples: r in the paper, where it is 10; 1 for a single pass. jump_length: j, how many steps are repeated at once.
    Raises ValueError unless both are >= 1.
    """

    num_resamples: int = 10
    jump_length: int = 1

    def __post_init__(self) -> None:
        if min(self.num_resamples, self.jump_length) < 1:
            raise ValueError(
                f"need num_resamples >= 1 and jump_length >= 1, "
                f"got num_resamples={self.num_resamples}, jump_length={self.jump_length}"
            )

    def walk(self, num_steps: int) -> Iterator[int]:
        """Yields the indices of the timesteps that follow the first, 0, each one further down or `jump_length` further up; the last
        is `num_steps`.

        Raises ValueError if there are fewer steps to repeat than `jump_length`.
        """
        if self.num_resamples > 1 and self.jump_length > max(num_steps - 1, 1):
            raise ValueError(f"need jump_length < num_steps={num_steps}, the sampler's steps, got jump_length={self.jump_length}")
        left = dict.fromkeys(range(num_steps - 1, self.jump_length - 1, -self.jump_length), self.num_resamples - 1)
        point = 0
        while point < num_steps:
            point += 1
            yield point
            if left.get(point, 0) > 0:
                left[point] -= 1
                point -= self.jump_length
                yield point

    @torch.no_grad()
    def sample(
        self,
        sampler: Sampler,
        denoiser: Denoiser,
        x: Tensor,
        known: Tensor,
        cond: Cond = None,
        noise: Noise = torch.randn_like,
    ) -> Tensor:
        """Returns x [B, ...] where `known`, boolean, is true, and what the model makes of the rest."""
        schedule = denoiser.schedule
        times = sampler.times(schedule)
        run = sampler.begin(denoiser, cond, noise, times)
        timesteps = on_device(times, x)
        x_t = sampler.start(schedule, noise(x))
        point = 0
        for following in self.walk(run.num_steps):
            t, s = timesteps[point].expand(len(x)), timesteps[following].expand(len(x))
            if following > point:
                run.index = point
                x_s = sampler.step(run, x_t, t, s)
                x_t = torch.where(known, schedule.q_sample(x, s, noise(x)), x_s)
            else:
                scale, variance = schedule.q_transition(s, t, x)
                x_t = scale * x_t + variance.sqrt() * noise(x)
                run.memory.clear()  # of a trajectory that ends here
            point = following
        return x_t
