"""Films of a sampler at work, from noise x_T to images x_0."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Denoiser
from alphabar.files.picture_text import PictureText
from alphabar.sampling.image_grid import grid, save_gif, save_png
from alphabar.sampling.sampling_job import SamplingJob


def record_film(
    job: SamplingJob,
    denoiser: Denoiser,
    device: torch.device,
    num_frames: int,
    on_step: Callable[[], object] = lambda: None,
    first: int = 0,
) -> list[Tensor]:
    """Returns at most `num_frames` states of a batch's trajectory, decoded: each uint8 [B, C, H, W].

    on_step: is called after every step of the sampler. first: the index of the first image.
    """
    states = []
    for x in job.trajectory(denoiser, range(first, first + job.batch_size), device):
        states.append(x.cpu())
        on_step()
    if len(states) > num_frames:
        left = torch.linspace(1, 0, num_frames) ** 1.5
        states = [states[moment] for moment in ((1 - left) * (len(states) - 1)).round().long().unique().tolist()]
    return [job.codec.decode(x.to(device)).cpu() for x in states]


def write_film(frames: list[Tensor], folder: Path, text: PictureText) -> Tensor:
    """Writes film.png and film.gif, which say `text` of themselves.

    Returns the strip [C, H, W]: a row for every image, a column for every frame.
    """
    strip = grid(torch.stack(frames, dim=1).flatten(0, 1), num_columns=len(frames))
    save_png(strip, folder / "film.png", text)
    save_gif([grid(frame) for frame in frames], folder / "film.gif", text=text)
    return strip
