"""Variations of images, nearer to them or further away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers.image_to_image import image_to_image, must_be_strength
from alphabar.sampling.prepare import withdrawn_on_complaint
from alphabar.sampling.tasks import ImageTask


@dataclass(frozen=True, kw_only=True)
class ImageToImage(ImageTask):
    """Writes each image with what comes of it from several levels of noise, the same noise at all of them.

    strengths: the levels, in (0, 1]: 0 would leave the image as it is, 1 hardly anything of it.
    Raises ValueError as `Inference` does, unless there are strengths, and for one outside (0, 1].
    """

    strengths: Sequence[float] = (0.2, 0.4, 0.6, 0.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths:
            raise ValueError("need at least one of strengths, such as strengths=[0.5], got none")
        for strength in self.strengths:
            must_be_strength(strength)

    def run(self) -> dict[str, object]:
        """Draws and writes; returns where, and how many images there were."""
        fabric, loaded = self.begin()
        with withdrawn_on_complaint(self.run_dir):
            originals = self.originals(fabric, loaded, self.num)
            told = self.told_of(loaded, originals)
        denoiser, codec = self.denoiser(loaded), loaded.model.codec

        def edit(indices: list[int]) -> Iterator[Tensor]:
            x = codec.encode(originals[indices].to(fabric.device))
            for strength in self.strengths:
                yield image_to_image(self.acting(loaded), denoiser, x, strength, told(indices), ImageNoise(self.seed, indices))

        results = self.edited(fabric, loaded, len(originals), len(self.strengths), edit).unbind(1)
        if fabric.is_global_zero:
            drawn = {f"strength{strength:g}": codec.decode(x) for strength, x in zip(self.strengths, results, strict=True)}
            self.write(loaded, {"original": originals, **drawn})
        return {"folder": self.run_dir, "num": len(originals)}
