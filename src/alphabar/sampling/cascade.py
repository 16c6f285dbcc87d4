"""Models that follow each other, each told what the one before made: the first is told the words, the last makes the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.data import Shape
from alphabar.data.user_images import given_images, given_side
from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.noise import derive_seed
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.models.codecs.pixels import Pixels
from alphabar.models.conditioners import ImageConditioner
from alphabar.sampling.conditions import Conditions, Pictures, of_pictures
from alphabar.sampling.model import Loaded
from alphabar.sampling.prepare import data_of
from alphabar.sampling.sampling_job import SamplingJob, sampler_for


@dataclass(frozen=True)
class UpstreamSamples:
    """What a model makes, image by image, for the next one to be told; `on_step` is called after every step of the sampler.

    broken: takes the indices of those with NaN or infinity in them, which the next model would not show.
    """

    generation: SamplingJob
    denoiser: Denoiser
    device: torch.device
    on_step: Callable[[], object]
    broken: set[int]

    def __call__(self, indices: Sequence[int]) -> Tensor:
        x = torch.empty(0)
        for step, x in enumerate(self.generation.trajectory(self.denoiser, indices, self.device)):  # noqa: B007
            if step > 0:
                self.on_step()
        finite = x.isfinite().flatten(1).all(1).tolist()
        self.broken.update(index for index, whole in zip(indices, finite, strict=True) if not whole)
        return self.generation.codec.decode(x)


@dataclass(frozen=True)
class RecordingSamples:
    """The same pictures, of which the first `limit` are kept, on the CPU and by index, for somebody to look at."""

    pictures: Pictures
    limit: int
    kept: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, indices: Sequence[int]) -> Tensor:
        output = self.pictures(indices)
        self.kept.update({index: image.cpu() for index, image in zip(indices, output, strict=True) if index < self.limit})
        return output


def chained(
    chain: Sequence[Loaded],
    denoisers: Sequence[Denoiser],
    samplers: Sequence[Sampler],
    told: Conditions,
    seed: int,
    batch_size: int,
    device: torch.device,
    on_step: Callable[[], object] = lambda: None,
    watch: Callable[[Pictures], Pictures] = lambda pictures: pictures,
    broken: set[int] | None = None,
) -> SamplingJob:
    """What the last model draws where the first is told `told`.

    Each has noise of its own, the first that of `seed`, so that it draws what it draws alone.
    watch: is handed what the last one is told by the one before. broken: see `UpstreamSamples`; None: for nobody.
    """
    seeds = [seed, *(derive_seed("stage", position, seed) for position in range(1, len(chain)))]
    for position, (each, later) in enumerate(pairwise(chain)):
        made = SamplingJob(samplers[position], each.model.codec, each.shape, seeds[position], batch_size, told)
        pictures: Pictures = UpstreamSamples(made, denoisers[position], device, on_step, set() if broken is None else broken)
        if later is chain[-1] and each.model.codec.makes_images:
            pictures = watch(pictures)
        told = of_pictures(image_conditioner(later), pictures, derive_seed("told", position, seed))
    last = chain[-1]
    return SamplingJob(samplers[-1], last.model.codec, last.shape, seeds[-1], batch_size, told)


def image_conditioner(loaded: Loaded) -> ImageConditioner:
    """Of a model that is told of pictures. Raises TypeError for another."""
    conditioner = loaded.model.conditioner
    if not isinstance(conditioner, ImageConditioner):
        raise TypeError(f"need a model that is told of pictures, got one with {type(conditioner).__name__}")
    return conditioner


def must_follow(chain: Sequence[Loaded], paths: Sequence[str]) -> None:
    """Raises UserError unless each model can be told what the one before makes, and the last makes images."""
    for (earlier, later), (before, after) in zip(pairwise(chain), pairwise(paths), strict=True):
        conditioner = later.model.conditioner
        if not isinstance(conditioner, ImageConditioner):
            raise UserError(f"stages: {after} is told of no pictures (it has {type(conditioner).__name__}), such as {before} makes")
        try:
            conditioner.must_follow(earlier.model.codec, *earlier.shape)
        except ValueError as error:
            raise UserError(f"stages: {after} cannot follow {before}: {error}") from error
    if not chain[-1].model.codec.makes_images:
        last = paths[-1]
        raise UserError(
            f"checkpoint={last}: this model makes no images but what another one reads: give stages=[{last}] and checkpoint=..., "
            "that of its decoder"
        )


def acting(chain: Sequence[Loaded], sampler: Sampler) -> list[Sampler]:
    """The sampler as it suits the space of each model.

    Raises UserError for a thresholding that somebody must have asked for where no model has a range to keep predictions in.
    """
    if not any(each.model.codec.is_bounded for each in chain):
        return [sampler_for(sampler, each.model.codec) for each in chain]
    return [sampler if each.model.codec.is_bounded else replace(sampler, thresholding=None) for each in chain]


def given_pictures(loaded: Loaded, files: str | None, data_root: str | None, fabric: Fabric, num: int) -> Tensor:
    """At most `num` images, uint8 [n, C, H, W], on every process, of files, or else of the model's data but not trained on.

    Files of a size that an earlier model could have made are taken as they are, where the model is told of pictures.
    Raises UserError if there are none, or one cannot be read.
    """
    shape, conditioner = loaded.shape, loaded.model.conditioner
    if files is not None:
        side = given_side(files, num) if isinstance(conditioner, ImageConditioner) else None
        return given_images(files, shape if side is None or side > shape.resolution else _taken(loaded, side), num)
    held_out = data_of(loaded, data_root, fabric).source.held_out()
    if len(held_out) == 0:
        raise UserError("this checkpoint's data has no images that it was not trained on: give images=PATH")
    return held_out.images(range(min(num, len(held_out))))


def _taken(loaded: Loaded, side: int) -> Shape:
    """The shape in which pictures of `side` x `side` are read."""
    try:
        image_conditioner(loaded).must_follow(Pixels(), loaded.shape.channels, side)
    except ValueError:
        return loaded.shape
    return Shape(loaded.shape.channels, side)


def of_given(loaded: Loaded, pictures: Tensor, seed: int) -> Conditions:
    """Image i is told picture i of [N, C, H, W], which start anew when they end.

    Raises UserError for pictures that are none for this model.
    """
    told = of_pictures(image_conditioner(loaded), lambda indices: pictures[[i % len(pictures) for i in indices]], seed)
    try:
        told([0])
    except ValueError as error:
        raise UserError(f"images: {error}") from error
    return told
