"""Variations of images, nearer to them or further away (SDEdit, Meng et al. 2022)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning.fabric import Fabric
from torch import Tensor

from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers.image_to_image import image_to_image, must_be_strength
from alphabar.sampling.pipeline import Pipeline
from alphabar.sampling.tasks import EditPlan, ImageTask


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

    def plan(self, fabric: Fabric, pipeline: Pipeline) -> EditPlan:
        originals = self.originals(fabric, pipeline, self.inference.end)
        conditions = self.row_conditions(pipeline, originals)
        sampler, denoiser, codec, seed = pipeline.sampler, pipeline.denoiser(), pipeline.codec, self.inference.seed

        def edit(indices: list[int]) -> Iterator[Tensor]:
            x = codec.encode(originals[indices].to(fabric.device))
            for strength in self.strengths:
                yield image_to_image(sampler, denoiser, x, strength, conditions(indices), ImageNoise(seed, indices))

        def pictures(rows: Tensor) -> dict[str, Tensor]:
            variations = zip(self.strengths, rows.unbind(1), strict=True)
            return {
                "original": originals[self.inference.first :],
                **{f"strength{strength:g}": codec.decode(x) for strength, x in variations},
            }

        return EditPlan(len(originals), len(self.strengths), edit, pictures)
