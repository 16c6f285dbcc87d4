"""Variations of images, nearer to them or further away (SDEdit, Meng et al. 2022)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers.image_to_image import image_to_image, must_be_strength
from alphabar.sampling.prepare import withdrawn_on_error
from alphabar.sampling.tasks import ImageTask


@dataclass(frozen=True, kw_only=True)
class ImageToImage(ImageTask):
    """Writes each image with its variations from several noise levels, with the same noise at each of them.

    strengths: the noise levels, in (0, 1]: 0 would leave the image as it is, 1 hardly anything of it.
    Raises ValueError if there are no strengths, or one is outside (0, 1].
    """

    strengths: Sequence[float] = (0.2, 0.4, 0.6, 0.8)

    def __post_init__(self) -> None:
        if not self.strengths:
            raise ValueError("need at least one of strengths, such as strengths=[0.5], got none")
        for strength in self.strengths:
            must_be_strength(strength)

    def run(self) -> dict[str, object]:
        settings = self.inference
        fabric, loaded = settings.start(settings.must_draw)
        with withdrawn_on_error(self.run_dir):
            originals = self.originals(fabric, loaded, settings.num)
            conditions = self.conditions_of(loaded, originals)
        sampler, denoiser, codec = settings.sampler_for(loaded), settings.denoiser(loaded), loaded.model.codec

        def edit(indices: list[int]) -> Iterator[Tensor]:
            x = codec.encode(originals[indices].to(fabric.device))
            for strength in self.strengths:
                yield image_to_image(sampler, denoiser, x, strength, conditions(indices), ImageNoise(settings.seed, indices))

        results = self.edited(fabric, loaded, len(originals), len(self.strengths), edit).unbind(1)
        if fabric.is_global_zero:
            drawn = {f"strength{strength:g}": codec.decode(x) for strength, x in zip(self.strengths, results, strict=True)}
            self.write(loaded, {"original": originals, **drawn})
        return {"folder": self.run_dir, "num": len(originals)}
