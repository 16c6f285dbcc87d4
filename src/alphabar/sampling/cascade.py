"""Cascades: each model is conditioned on the samples of the one before, the first on the user's conditions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.bits import rounded_to_uint8
from alphabar.data import Shape
from alphabar.data.user_images import common_size, read_user_images
from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.noise import derive_seed
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.models.codecs.pixels import Pixels
from alphabar.resolution import format_resolution
from alphabar.sampling.conditions import Conditions, ImagesByIndex, image_conditions
from alphabar.sampling.model import LoadedModel
from alphabar.sampling.prepare import load_data
from alphabar.sampling.sampling_job import SamplingJob, sampler_for_codec


@dataclass(frozen=True)
class UpstreamSamples:
    """Draws the samples of a model, by index, as conditions of the next one; `on_step` is called after every sampler step.

    nonfinite: receives the indices of samples with NaN or infinity, which the next model's samples would hide.
    """

    job: SamplingJob
    denoiser: Denoiser
    device: torch.device
    on_step: Callable[[], object]
    nonfinite: set[int]

    def __call__(self, indices: Sequence[int]) -> Tensor:
        x = self.job.sample(self.denoiser, indices, self.device, self.on_step)
        finite = x.isfinite().flatten(1).all(1).tolist()
        self.nonfinite.update(index for index, is_finite in zip(indices, finite, strict=True) if not is_finite)
        images = self.job.codec.decode(x)
        return rounded_to_uint8(images) if self.job.codec.bits == 16 else images


@dataclass(frozen=True)
class RecordingSamples:
    """Passes on `images` and keeps those with an index below `limit` on the CPU, to be shown beside what is made of them."""

    images: ImagesByIndex
    limit: int
    kept: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, indices: Sequence[int]) -> Tensor:
        output = self.images(indices)
        self.kept.update({index: image.cpu() for index, image in zip(indices, output, strict=True) if index < self.limit})
        return output


CONDITION_STREAM = "told"  # the name of a random stream; another name would change the samples of cascades and edits


def cascade_job(
    stages: Sequence[LoadedModel],
    denoisers: Sequence[Denoiser],
    samplers: Sequence[Sampler],
    conditions: Conditions,
    seed: int,
    batch_size: int,
    device: torch.device,
    on_step: Callable[[], object] = lambda: None,
    wrap_upstream: Callable[[ImagesByIndex], ImagesByIndex] = lambda images: images,
    nonfinite: set[int] | None = None,
) -> SamplingJob:
    """Returns the job of the last model, when the first one has `conditions`; a single model is a cascade of one.

    Each model has noise of its own, the first that of `seed`, so that it draws what it draws alone.
    wrap_upstream: wraps the images that the last model is conditioned on. nonfinite: see `UpstreamSamples`.
    """
    nonfinite = set() if nonfinite is None else nonfinite
    seeds = [seed, *(derive_seed("stage", position, seed) for position in range(1, len(stages)))]
    for position, (stage, later) in enumerate(pairwise(stages)):
        job = SamplingJob(samplers[position], stage.model.codec, stage.shape, seeds[position], batch_size, conditions)
        images: ImagesByIndex = UpstreamSamples(job, denoisers[position], device, on_step, nonfinite)
        if later is stages[-1] and stage.model.codec.makes_images:
            images = wrap_upstream(images)
        conditions = image_conditions(later.model.conditioner, images, derive_seed(CONDITION_STREAM, position, seed))
    last = stages[-1]
    return SamplingJob(samplers[-1], last.model.codec, last.shape, seeds[-1], batch_size, conditions)


def check_cascade(stages: Sequence[LoadedModel], paths: Sequence[str]) -> None:
    """Raises UserError unless each model can be conditioned on what the one before makes, and the last makes images."""
    for (earlier, later), (before, after) in zip(pairwise(stages), pairwise(paths), strict=True):
        try:
            later.model.conditioner.must_follow(earlier.model.codec, *earlier.shape)
        except ValueError as error:
            raise UserError(f"stages: {after} cannot follow {before}: {error}") from error
    if not stages[-1].model.codec.makes_images:
        last = paths[-1]
        raise UserError(
            f"checkpoint={last}: this model makes no images but what another one reads: give 'stages=[{last}]' and checkpoint=..., "
            "that of its decoder"
        )


def samplers_for(stages: Sequence[LoadedModel], sampler: Sampler) -> list[Sampler]:
    """Returns the sampler for each model, without thresholding where its space has no bounds.

    Raises UserError for a thresholding other than the default if no model has a bounded space.
    """
    is_used = any(stage.model.codec.is_bounded for stage in stages)
    return [sampler_for_codec(sampler, stage.model.codec, is_in_cascade=is_used) for stage in stages]


def source_images(loaded: LoadedModel, files: str | None, data_root: str | None, fabric: Fabric, num: int) -> Tensor:
    """Returns at most `num` images, [n, C, H, W], on every process: from files, or else held-out images of the model's data.

    Files are read in the size of an earlier model's samples, if the model is conditioned on images of that size.
    Raises UserError if there are none, or one cannot be read.
    """
    if files is not None:
        return read_user_images(files, _accepted_shape(loaded, files, num), num, loaded.model.codec.bits)
    held_out = load_data(loaded, data_root, fabric).source.held_out()
    if len(held_out) == 0:
        raise UserError("this checkpoint's data has no images that it was not trained on: give images=PATH")
    if held_out.shape != loaded.shape:
        size = format_resolution(loaded.shape.resolution)
        raise UserError(
            f"resolution={size}: images of the data have {format_resolution(held_out.shape.resolution)}: give images=PATH"
        )
    return held_out.images(range(min(num, len(held_out))))


def _accepted_shape(loaded: LoadedModel, files: str, num: int) -> Shape:
    """Returns the shape in which files are read: their own if the model accepts it as a condition, else that of the model."""
    size = common_size(files, num) if loaded.model.conditioner.takes_images else None
    if size is None:
        return loaded.shape
    shape = Shape(loaded.shape.channels, *size)
    if shape.height > loaded.shape.height or shape.width > loaded.shape.width:
        return loaded.shape
    try:
        loaded.model.conditioner.must_follow(Pixels(), *shape)
    except ValueError:
        return loaded.shape
    return shape


def source_conditions(loaded: LoadedModel, sources: Tensor, seed: int) -> Conditions:
    """Returns conditions in which image i has that of source image i of [N, C, H, W], modulo N.

    Raises UserError for images that the model cannot be conditioned on.
    """
    conditions = image_conditions(loaded.model.conditioner, lambda indices: sources[[i % len(sources) for i in indices]], seed)
    try:
        conditions([0])
    except ValueError as error:
        raise UserError(f"images: {error}") from error
    return conditions
