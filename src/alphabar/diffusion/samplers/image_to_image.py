"""Image to image: noise hides the details, and the sampler draws others."""

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser
from alphabar.diffusion.samplers import Noise, Sampler, on_device
from alphabar.diffusion.schedules import Schedule


def image_to_image(
    sampler: Sampler,
    denoiser: Denoiser,
    x: Tensor,
    strength: float,
    cond: Cond = None,
    noise: Noise = torch.randn_like,
) -> Tensor:
    """Returns another x [B, ...] with the same coarse content: x_t = alpha_t * x + sigma_t * eps, then down from t
    (Meng et al. 2022, "SDEdit", Alg. 1).

    strength: the level of t in the schedule's own time, from close to 0, where x stays as it is, to 1, where hardly anything is
        left of it. Raises ValueError outside (0, 1].
    """
    times = times_below(sampler, denoiser.schedule, strength)
    t = on_device(times[:1], x).expand(len(x))
    x_t = denoiser.schedule.q_sample(x, t, noise(x))
    return sampler.sample(denoiser, x_t, cond, noise, times)


def times_below(sampler: Sampler, schedule: Schedule, strength: float) -> Tensor:
    """Returns the time at level `strength`, of a discrete schedule the step it lies in, and then the sampler's timesteps: [N + 1]
    with N >= 1.

    It takes the place of the nearest of these, so that no step is much shorter than the others, which multistep samplers
    would not bear. Raises ValueError outside (0, 1].
    """
    must_be_strength(strength)
    times = sampler.times(schedule)
    start = schedule.time(torch.tensor([strength], dtype=torch.float64)).to(times)
    nearest = int((schedule.level(times[:-1]) - schedule.level(start)).abs().argmin())
    return torch.cat([start, times[nearest + 1 :]])


def must_be_strength(strength: float) -> None:
    """Raises ValueError outside (0, 1]."""
    if not 0 < strength <= 1:
        raise ValueError(f"need 0 < strength <= 1, the level in the schedule from which to draw anew, got strength={strength}")
