"""Encoding of images as the noise that leads to them, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.diffusion.samplers.inversion import encode, must_be_reversible
from alphabar.files.atomic import atomic_writer
from alphabar.metrics.extractor import in_float32
from alphabar.sampling.pipeline import Pipeline
from alphabar.sampling.tasks import EditPlan, ImageTask, without_thresholding
from alphabar.speed import FLOAT32


@dataclass(frozen=True, kw_only=True)
class Encode(ImageTask):
    """Writes the noise that leads to each image, as a picture and in latents.npz, and the image that the sampler draws from it.

    latents.npz: `latents`, float32 [num, C, H, W], x_T / sigma_T: standard normal if the model is perfect.
    Nothing is thresholded. Raises ValueError as `without_thresholding` does, unless the sampler is reversible, and for another
    precision than float32, whose rounding on the way would not lead back.
    """

    def __post_init__(self) -> None:
        if self.inference.precision not in (None, FLOAT32) or self.inference.tf32:
            given = f"precision={self.inference.precision} speed.tf32={str(bool(self.inference.tf32)).lower()}"
            raise ValueError(f"task=encode needs precision={FLOAT32} and speed.tf32=false, got {given}")
        must_be_reversible(self.inference.sampler)
        without_thresholding(self.inference.sampler)

    def plan(self, fabric: Fabric, pipeline: Pipeline) -> EditPlan:
        originals = self.originals(fabric, pipeline, self.inference.end)
        conditions = self.row_conditions(pipeline, originals)
        shown = originals[self.inference.first :]
        denoiser, codec = pipeline.denoiser(), pipeline.codec
        sampler = without_thresholding(self.inference.sampler)

        def edit(indices: list[int]) -> Iterator[Tensor]:
            with in_float32(fabric.device), torch.no_grad():
                x_T = encode(sampler, denoiser, codec.encode(originals[indices].to(fabric.device)), conditions(indices))
                x = sampler.sample(denoiser, x_T, conditions(indices))
            yield x_T / sampler.start(denoiser.schedule, torch.ones_like(x_T))
            yield x

        def pictures(rows: Tensor) -> dict[str, Tensor]:
            latents, x = rows.unbind(1)
            return {"original": shown, "noise": codec.decode(latents), "reconstruction": codec.decode(x)}

        def finish(rows: Tensor) -> dict[str, object]:
            """Returns the mean and maximal errors of reconstructions, in grey levels."""
            latents, x = rows.unbind(1)
            errors = (codec.decode(x).cpu().int() - shown.int()).abs().float()
            mean, largest = errors.mean().item(), errors.max().item()
            if fabric.is_global_zero:
                with atomic_writer(Path(self.inference.run_dir) / "latents.npz") as file:
                    np.savez(file, latents=latents.cpu().numpy())
                label = sampler.label(denoiser.schedule)
                levels = 2**codec.bits - 1
                print(f"reconstruction by {label}: off by {mean:.2f} of {levels} grey levels on average, by {largest:.0f} at most")
            return {"mean_error": mean, "max_error": largest}

        return EditPlan(len(originals), 2, edit, pictures, finish, ["latents.npz"])
