"""Encoding of images as the noise that leads to them, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alphabar.diffusion.samplers.inversion import encode, must_be_reversible
from alphabar.files.atomic import atomic_writer
from alphabar.sampling.prepare import withdrawn_on_error
from alphabar.sampling.tasks import ImageTask, unclipped


@dataclass(frozen=True, kw_only=True)
class Encode(ImageTask):
    """Writes the noise that leads to each image, as a picture and in latents.npz, and the image that the sampler makes of it.

    latents.npz: `latents`, float32 [num, C, H, W], x_T / sigma_T: standard normal if the model is perfect.
    Nothing is thresholded. Raises ValueError as `unclipped` does, and unless the sampler is reversible.
    """

    def __post_init__(self) -> None:
        must_be_reversible(self.inference.sampler)
        unclipped(self.inference.sampler)

    def run(self) -> dict[str, object]:
        """Encodes, decodes and writes; returns the folder, the number of rows, and how many grey levels reconstructions are off."""
        settings = self.inference
        fabric, loaded = settings.start(settings.must_draw)
        with withdrawn_on_error(self.run_dir):
            originals = self.originals(fabric, loaded, settings.num)
            conditions = self.conditions_of(loaded, originals)
        denoiser, codec = settings.denoiser(loaded), loaded.model.codec
        sampler = unclipped(settings.sampler)

        def edit(indices: list[int]) -> Iterator[Tensor]:
            x_T = encode(sampler, denoiser, codec.encode(originals[indices].to(fabric.device)), conditions(indices))
            yield x_T / sampler.start(denoiser.schedule, torch.ones_like(x_T))
            yield sampler.sample(denoiser, x_T, conditions(indices))

        latents, x = self.edited(fabric, loaded, len(originals), 2, edit).unbind(1)
        back = codec.decode(x).cpu()
        off = (back.int() - originals.int()).abs().float()
        mean, largest = off.mean().item(), off.max().item()
        if fabric.is_global_zero:
            columns = {"original": originals, "noise": codec.decode(latents), "reconstruction": back}
            self.write(loaded, columns, ", latents.npz")
            with atomic_writer(Path(self.run_dir) / "latents.npz") as file:
                np.savez(file, latents=latents.cpu().numpy())
            label = sampler.label(denoiser.schedule)
            print(f"reconstruction by {label}: off by {mean:.2f} of 255 grey levels on average, by {largest:.0f} at most")
        return {"folder": self.run_dir, "num": len(originals), "mean_error": mean, "max_error": largest}
