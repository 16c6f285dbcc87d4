"""Deterministic inversion: from data back to the noise that leads to it."""

from dataclasses import replace

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond, Denoiser
from alphabar.diffusion.samplers import Sampler, changes, on_device


@torch.no_grad()
def encode(sampler: Sampler, denoiser: Denoiser, x: Tensor, cond: Cond = None) -> Tensor:
    """Returns x_T [B, ...], from which the sampler leads back to x [B, ...]: its own steps up its own timesteps,
    dx = x_hat dalpha + eps_hat dsigma (Song et al. 2021, DDIM, sec. 5.4).

    At data itself nothing can be predicted. The first time t after data is reached with what the denoiser says there,
    x_t = alpha_t * x + sigma_t * eps_hat(alpha_t * x, t), which the last step down all but undoes; from x_t = x, the way there and
    back would be of first order, whatever the sampler's.
    x_hat is not thresholded, since clipping cannot be undone: sample without thresholding, too, to come back.
    Raises ValueError unless the sampler is reversible.
    """
    must_be_reversible(sampler)
    times = sampler.times(denoiser.schedule)[:-1].flip(0)
    t = on_device(times[:1], x).expand(len(x))
    alpha, sigma = denoiser.schedule.at(t, x)
    first = alpha * x + sigma * denoiser(alpha * x, t, cond).eps_hat
    return replace(sampler, thresholding=None).sample(denoiser, first, cond, times=times)


def must_be_reversible(sampler: Sampler) -> None:
    """Raises ValueError, with the names of those that are, unless the sampler is reversible."""
    if not sampler.is_reversible:
        name = type(sampler).__name__.lower() + changes(sampler, ("num_steps", "timesteps", "thresholding"))
        raise ValueError(
            f"sampler {name} draws noise or looks back at earlier steps, and so cannot run from data up to noise; "
            "ddim with eta=0, euler and heun with churn=0 can"
        )
