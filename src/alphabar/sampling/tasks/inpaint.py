"""Inpainting: the hidden part of images is filled in (RePaint, Lugmayr et al. 2022)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.bits import with_bits
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers.inpainting import RePaint
from alphabar.errors import UserError
from alphabar.sampling.pipeline import Pipeline
from alphabar.sampling.tasks import EditPlan, ImageTask
from alphabar.sampling.tasks.mask import known_latents, known_pixels

GREY = 128  # the grey level of hidden pixels in the pictures


@dataclass(frozen=True, kw_only=True)
class Inpaint(ImageTask):
    """Writes each image, the image with its hidden part in grey, and several fillings of that part.

    mask: see `known_pixels`; a latent is drawn anew if one of its pixels is hidden, which may change known pixels beside it.
    num_fillings: fillings of each image; number j is what the first would be with seed + j.
    num_resamples, jump_length: see `RePaint`.
    Raises ValueError as `RePaint` does, and unless num_fillings >= 1.
    """

    mask: str = "center"
    num_fillings: int = 4
    num_resamples: int = 10
    jump_length: int = 1

    def __post_init__(self) -> None:
        if self.num_fillings < 1:
            raise ValueError(f"need num_fillings >= 1, got num_fillings={self.num_fillings}")
        RePaint(self.num_resamples, self.jump_length)

    def plan(self, fabric: Fabric, pipeline: Pipeline) -> EditPlan:
        self.refuse_image_conditions(pipeline)
        shape, codec = pipeline.loaded.shape, pipeline.codec
        known = known_pixels(self.mask, shape.height, shape.width)
        mask = known_latents(known, codec.space(*shape), self.mask)
        repaint = self._repaint(pipeline)
        originals = self.originals(fabric, pipeline, self.inference.end)
        sampler, denoiser, conditions = pipeline.sampler, pipeline.denoiser(), pipeline.conditions()
        seeds = range(self.inference.seed, self.inference.seed + self.num_fillings)

        def edit(indices: list[int]) -> Iterator[Tensor]:
            x = codec.encode(originals[indices].to(fabric.device))
            for seed in seeds:
                yield repaint.sample(sampler, denoiser, x, mask.to(x.device), conditions(indices), ImageNoise(seed, indices))

        def pictures(rows: Tensor) -> dict[str, Tensor]:
            fillings = {f"filling{index}": codec.decode(x) for index, x in enumerate(rows.unbind(1))}
            shown = originals[self.inference.first :]
            grey = with_bits(torch.tensor(GREY, dtype=torch.uint8), codec.bits)
            return {"original": shown, "masked": torch.where(known, shown, grey), **fillings}

        return EditPlan(len(originals), self.num_fillings, edit, pictures)

    def _repaint(self, pipeline: Pipeline) -> RePaint:
        """Returns RePaint with its settings. Raises UserError for a jump that is longer than the sampler's trajectory."""
        repaint = RePaint(self.num_resamples, self.jump_length)
        try:
            next(repaint.walk(len(self.inference.sampler.times(pipeline.model.denoiser.schedule)) - 1))
        except ValueError as error:
            raise UserError(f"task: {error}") from error
        return repaint
