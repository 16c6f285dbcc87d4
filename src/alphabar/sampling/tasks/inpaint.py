"""Inpainting: the hidden part of images is filled in (RePaint, Lugmayr et al. 2022)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers.inpainting import RePaint
from alphabar.errors import UserError
from alphabar.sampling.model import Loaded
from alphabar.sampling.prepare import withdrawn_on_error
from alphabar.sampling.tasks import ImageTask
from alphabar.sampling.tasks.mask import known_latents, known_pixels

HIDDEN = 128  # the grey level of hidden pixels in the pictures


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

    def run(self) -> dict[str, object]:
        settings = self.inference
        fabric, loaded = settings.start(settings.must_draw)
        with withdrawn_on_error(self.run_dir):
            self.must_not_take_images(loaded)
            known = known_pixels(self.mask, loaded.shape.resolution)
            mask = known_latents(known, loaded.model.codec.space(*loaded.shape), self.mask)
            repaint = self._repaint(loaded)
            originals = self.originals(fabric, loaded, settings.num)
        denoiser, codec, conditions = settings.denoiser(loaded), loaded.model.codec, settings.conditions(loaded)
        sampler = settings.sampler_for(loaded)

        def edit(indices: list[int]) -> Iterator[Tensor]:
            x = codec.encode(originals[indices].to(fabric.device))
            for seed in range(settings.seed, settings.seed + self.num_fillings):
                yield repaint.sample(sampler, denoiser, x, mask.to(x.device), conditions(indices), ImageNoise(seed, indices))

        fillings = self.edited(fabric, loaded, len(originals), self.num_fillings, edit).unbind(1)
        if fabric.is_global_zero:
            drawn = {f"filling{index}": codec.decode(x) for index, x in enumerate(fillings)}
            self.write(loaded, {"original": originals, "masked": torch.where(known, originals, HIDDEN), **drawn})
        return {"folder": self.run_dir, "num": len(originals)}

    def _repaint(self, loaded: Loaded) -> RePaint:
        """Returns RePaint with its settings. Raises UserError for a jump that is longer than the sampler's trajectory."""
        repaint = RePaint(self.num_resamples, self.jump_length)
        try:
            next(repaint.walk(len(self.inference.sampler.times(loaded.model.denoiser.schedule)) - 1))
        except ValueError as error:
            raise UserError(f"task: {error}") from error
        return repaint
