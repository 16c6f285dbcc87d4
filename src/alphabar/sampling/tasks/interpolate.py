"""Interpolation from one image to another, through the noise or the embeddings between them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers.interpolation import slerp
from alphabar.diffusion.samplers.inversion import encode, must_be_reversible
from alphabar.errors import UserError
from alphabar.sampling.pipeline import Pipeline
from alphabar.sampling.tasks import Edit, EditPlan, ImageTask, without_thresholding


@dataclass(frozen=True, kw_only=True)
class Interpolate(ImageTask):
    """Writes rows of frames, drawn from points on the great circle between the noise, or the embeddings, of the first and the last.

    between: "images": row i leads from image 2i to image 2i + 1 through their latents; "noise": it leads from what `task=generate`
        draws as image i with this seed to what it draws with the next; "embeddings": it leads from variations of image 2i to
        variations of image 2i + 1, all from the same noise (Ramesh et al. 2022, sec. 3.2).
    Nothing is thresholded between images. Raises ValueError unless num_frames >= 2; between images as `without_thresholding` does,
    and unless the sampler is reversible; and between noise if images are given.
    """

    between: Literal["images", "noise", "embeddings"] = "images"
    num_frames: int = 8

    def __post_init__(self) -> None:
        settings = self.inference
        if self.num_frames < 2:
            raise ValueError(f"need num_frames >= 2, got num_frames={self.num_frames}")
        if self.between == "images":
            must_be_reversible(settings.sampler)
            without_thresholding(settings.sampler)
        elif self.between == "noise" and (settings.files is not None or settings.data_root is not None):
            given = f"images={settings.files}" if settings.files is not None else f"data_root={settings.data_root}"
            raise ValueError(f"need task.between=images for images to lead from and to, task.between=noise has none; got {given}")

    def plan(self, fabric: Fabric, pipeline: Pipeline) -> EditPlan:
        plans = {"images": self._between_images, "noise": self._between_noise, "embeddings": self._between_embeddings}
        num_rows, edit = plans[self.between](fabric, pipeline)

        def pictures(rows: Tensor) -> dict[str, Tensor]:
            frames = pipeline.codec.decode(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
            return {f"frame{index:02d}": images for index, images in enumerate(frames.unbind(1))}

        return EditPlan(num_rows, self.num_frames, edit, pictures)

    def _between_images(self, fabric: Fabric, pipeline: Pipeline) -> tuple[int, Edit]:
        """Returns the number of rows, and the edit that draws them. Raises UserError for less than two images."""
        self.refuse_image_conditions(pipeline)
        originals = self._two_or_more(fabric, pipeline)
        denoiser, codec, conditions = pipeline.denoiser(), pipeline.codec, pipeline.conditions()
        sampler = without_thresholding(self.inference.sampler)

        def edit(indices: list[int]) -> Iterator[Tensor]:
            ends = [codec.encode(originals[[2 * index + end for index in indices]].to(fabric.device)) for end in (0, 1)]
            start, end = (encode(sampler, denoiser, x, conditions(indices)) for x in ends)
            for weight in self._weights():
                yield sampler.sample(denoiser, slerp(start, end, weight), conditions(indices))

        return len(originals) // 2, edit

    def _between_noise(self, fabric: Fabric, pipeline: Pipeline) -> tuple[int, Edit]:
        """Returns the number of rows, and the edit that draws them, with the same sampler noise in all frames of a row."""
        self.refuse_image_conditions(pipeline)
        conditions, sampler, denoiser = pipeline.conditions(), pipeline.sampler, pipeline.denoiser()
        seed, size = self.inference.seed, tuple(pipeline.codec.space(*pipeline.loaded.shape))

        def edit(indices: list[int]) -> Iterator[Tensor]:
            end = ImageNoise(seed + 1, indices).draw(size, fabric.device)
            for weight in self._weights():
                noise = ImageNoise(seed, indices)
                eps = slerp(noise.draw(size, fabric.device), end, weight)
                yield sampler.sample(denoiser, sampler.start(denoiser.schedule, eps), conditions(indices), noise)

        return self.inference.end, edit

    def _between_embeddings(self, fabric: Fabric, pipeline: Pipeline) -> tuple[int, Edit]:
        """Returns the number of rows, and the edit that draws them, with the same noise in all frames of a row.

        Raises UserError for a model that is not conditioned on embeddings, and for less than two images.
        """
        conditioner, originals = pipeline.model.conditioner, self._two_or_more(fabric, pipeline)
        try:
            vectors = conditioner.embed(originals.to(fabric.device))
        except ValueError as error:
            raise UserError(f"task.between=embeddings: {error}") from error
        sampler, denoiser = pipeline.sampler, pipeline.denoiser()
        size = tuple(pipeline.codec.space(*pipeline.loaded.shape))

        def edit(indices: list[int]) -> Iterator[Tensor]:
            start, end = (vectors[[2 * index + side for index in indices]] for side in (0, 1))
            for weight in self._weights():
                noise = ImageNoise(self.inference.seed, indices)
                cond = conditioner.from_image(slerp(start, end, weight), noise)
                yield sampler.sample(denoiser, sampler.start(denoiser.schedule, noise.draw(size, fabric.device)), cond, noise)

        return len(vectors) // 2, edit

    def _two_or_more(self, fabric: Fabric, pipeline: Pipeline) -> Tensor:
        """Returns the images to lead from and to, uint8 [n, C, H, W]. Raises UserError for less than two."""
        originals = self.originals(fabric, pipeline, 2 * self.inference.end)
        if len(originals) < 2:
            raise UserError(f"images={self.inference.files}: there is nothing between, need two images, got {len(originals)}")
        return originals

    def _weights(self) -> list[float]:
        return torch.linspace(0, 1, self.num_frames, dtype=torch.float64).tolist()
