"""Filling in what is missing of images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers.inpainting import RePaint
from alphabar.errors import UserError
from alphabar.sampling.model import Loaded
from alphabar.sampling.prepare import withdrawn_on_complaint
from alphabar.sampling.tasks import ImageTask
from alphabar.sampling.tasks.mask import known_latents, known_pixels

HIDDEN = 128  # what is not known is grey in the pictures


@dataclass(frozen=True, kw_only=True)
class Inpaint(ImageTask):
    """Writes each image with what was left of it, and several ways to fill in the rest.

    mask: see `known_pixels`; where latents are drawn, those of unknown pixels are, which may bring known ones with them.
    num_fillings: of each image; number j is what the first would be with seed + j.
    num_resamples, jump_length: see `RePaint`.
    Raises ValueError as `Inference` and `RePaint` do, and unless num_fillings >= 1.
    """

    mask: str = "center"
    num_fillings: int = 4
    num_resamples: int = 10
    jump_length: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_fillings < 1:
            raise ValueError(f"need num_fillings >= 1, got num_fillings={self.num_fillings}")
        RePaint(self.num_resamples, self.jump_length)

    def run(self) -> dict[str, object]:
        """Draws and writes; returns where, and how many images there were."""
        fabric, loaded = self.begin()
        with withdrawn_on_complaint(self.run_dir):
            self.must_be_told_no_pictures(loaded)
            known = known_pixels(self.mask, loaded.shape.resolution)
            given = known_latents(known, loaded.model.codec.space(*loaded.shape), self.mask)
            repaint = self._repaint(loaded)
            originals = self.originals(fabric, loaded, self.num)
        denoiser, codec, told = self.denoiser(loaded), loaded.model.codec, self.told(loaded)

        def edit(indices: list[int]) -> Iterator[Tensor]:
            x = codec.encode(originals[indices].to(fabric.device))
            for seed in range(self.seed, self.seed + self.num_fillings):
                yield repaint.sample(self.acting(loaded), denoiser, x, given.to(x.device), told(indices), ImageNoise(seed, indices))

        fillings = self.edited(fabric, loaded, len(originals), self.num_fillings, edit).unbind(1)
        if fabric.is_global_zero:
            drawn = {f"filling{index}": codec.decode(x) for index, x in enumerate(fillings)}
            self.write(loaded, {"original": originals, "masked": torch.where(known, originals, HIDDEN), **drawn})
        return {"folder": self.run_dir, "num": len(originals)}

    def _repaint(self, loaded: Loaded) -> RePaint:
        """Raises UserError for a jump that is longer than the sampler's way."""
        repaint = RePaint(self.num_resamples, self.jump_length)
        try:
            next(repaint.walk(len(self.sampler.times(loaded.model.denoiser.schedule)) - 1))
        except ValueError as error:
            raise UserError(f"task: {error}") from error
        return repaint
