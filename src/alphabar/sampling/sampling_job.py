"""Drawing images with a denoiser: the same images on any number of processes, but for rounding where their batches differ."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.bits import DTYPE_OF_BITS, Bits
from alphabar.config.foreign_code import explaining_foreign_errors
from alphabar.data import Shape
from alphabar.diffusion.denoiser import Cond, Denoiser, NetworkDenoiser
from alphabar.diffusion.description import describe_tensors
from alphabar.diffusion.errors import NeedsContinuousSchedule, NeedsLearnedVariance, NeedsNoiseRange, NeedsNumSteps
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers import Sampler, on_device
from alphabar.diffusion.thresholdings import Static
from alphabar.errors import Advice, UserError, advised
from alphabar.models.codecs import Codec
from alphabar.runs.processes.distributed import sum_over_ranks
from alphabar.sampling.conditions import Conditions

log = logging.getLogger(__name__)
SAMPLER_ADVICE: Advice = {
    NeedsContinuousSchedule: (
        "choose churn=0, sampler=ddpm or ddim with eta=1, or a schedule with continuous time (edm, straight, shifted_cosine)"
    ),
    NeedsLearnedVariance: "choose posterior or beta; objective=hybrid trains it",
    NeedsNumSteps: "give sampler.num_steps=50 or another number; num_steps=null is for schedules that have num_steps",
    NeedsNoiseRange: "give timesteps.sigma_min and timesteps.sigma_max, such as 0.002 and 80",
}


NUM_TRIED = 2  # images of a trial: one alone would hide numbers [B] that are multiplied with images [B, C, H, W]


class SampleBatch(NamedTuple):
    """A batch of samples: images [B, C, H, W] as the codec decodes them, their indices, and whether each is finite, bool [B]."""

    indices: list[int]
    images: Tensor
    finite: Tensor

    def mark_nonfinite(self, indices: Set[int]) -> "SampleBatch":
        """Returns the batch in which the images of these indices count as not finite, too."""
        if not indices:
            return self
        others = torch.tensor([index not in indices for index in self.indices], device=self.finite.device)
        return self._replace(finite=self.finite & others)


@dataclass(frozen=True)
class SamplingJob:
    """Draws images by their indices: image i is a function of the weights, the sampler, its condition, the seed and i.

    codec: the codec of the model. shape: the shape of an image. conditions: return the condition of each image, by its index.
    batch_size: images at a time. Every batch is padded to this size, since rounding can depend on the shape of a batch.
    """

    sampler: Sampler
    codec: Codec
    shape: Shape
    seed: int
    batch_size: int
    conditions: Conditions = lambda indices: None

    @property
    def space(self) -> tuple[int, ...]:
        """The shape of x without B."""
        return tuple(self.codec.space(*self.shape))

    def batches(self, num: int, rank: int = 0, world_size: int = 1, first: int = 0) -> Iterator[list[int]]:
        """Yields this process's share of `num` indices from `first` on in batches, padded with those that follow."""
        if num < 1:
            raise ValueError(f"need num >= 1, got num={num}")
        for start in range(rank * self.batch_size, num, world_size * self.batch_size):
            yield list(range(first + start, first + start + self.batch_size))

    def trajectory(self, denoiser: Denoiser, indices: Sequence[int], device: torch.device) -> Iterator[Tensor]:
        """Yields x at every timestep of the sampler, x_T first."""
        noise = ImageNoise(self.seed, indices)
        x_T = self.sampler.start(denoiser.schedule, noise.draw(self.space, device))
        return self.sampler.trajectory(denoiser, x_T, self.conditions(indices), noise)

    def sample(
        self, denoiser: Denoiser, indices: Sequence[int], device: torch.device, on_step: Callable[[], object] = lambda: None
    ) -> Tensor:
        """Returns the last state of the trajectory; `on_step` is called after every step of the sampler."""
        states = self.trajectory(denoiser, indices, device)
        x = next(states)
        for x in states:  # noqa: B007
            on_step()
        return x

    def sample_in_parts(
        self, denoiser: Denoiser, indices: Sequence[int], device: torch.device, on_step: Callable[[], object], at_a_time: int
    ) -> tuple[Tensor, int]:
        """Returns what `sample` does, and how many images it draws at a time: `at_a_time`, or fewer where a GPU has no room.

        A line says so. The parts differ from the whole in rounding alone; `on_step` is called for the last of them.
        """
        drawn: list[Tensor] = []
        while (begin := sum(map(len, drawn))) < len(indices):
            part = indices[begin : begin + at_a_time]
            try:
                is_last = begin + len(part) == len(indices)
                drawn.append(self.sample(denoiser, part, device, *([on_step] if is_last else [])))
                continue
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
            # Outside of the handler, whose traceback would hold the memory of the failed attempt.
            at_a_time = len(part) // 2
            log.warning("out of memory with %d images at a time on %s: now %d (batch_size=%d)", len(part), device, *[at_a_time] * 2)
            torch.cuda.empty_cache()
        return torch.cat(drawn), at_a_time

    def images(
        self,
        denoiser: Denoiser,
        num: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        on_step: Callable[[], object] = lambda: None,
        first: int = 0,
    ) -> Iterator[SampleBatch]:
        """Yields this process's share of `num` images, from index `first` on.

        on_step: is called after every step of the sampler.
        """
        at_a_time = self.batch_size
        for padded in self.batches(num, rank, world_size, first):
            indices = [index for index in padded if index < first + num]
            x, at_a_time = self.sample_in_parts(denoiser, padded, device, on_step, at_a_time)
            x = x[: len(indices)]
            yield SampleBatch(indices, self.codec.decode(x), x.isfinite().flatten(1).all(1))


def sampler_for_codec(sampler: Sampler, codec: Codec, is_in_cascade: bool = False) -> Sampler:
    """Returns the sampler, without thresholding if the codec's space has no bounds to keep predictions in.

    Raises UserError in that case for a thresholding other than the configuration's default, which the user must have asked for.
    is_in_cascade: whether another model, whose space has bounds, uses the thresholding, so that it may be left out here.
    """
    if codec.is_bounded:
        return sampler
    if not is_in_cascade and sampler.thresholding not in (None, Static()):
        name = type(sampler.thresholding).__name__.lower()
        raise UserError(f"thresholding={name}: this model's latents have no range to be kept in, need thresholding=none")
    return replace(sampler, thresholding=None)


def gather_images(
    size: tuple[int, int, int], num: int, batches: Iterable[SampleBatch], device: torch.device, first: int = 0, *, bits: Bits
) -> Tensor:
    """Returns `num` images from index `first` on, on every process, from the batches of each: [num, C, H, W] on the CPU.

    bits: the bits per channel of the images.
    """
    # Devices and other processes may not know uint16.
    images = torch.zeros(num, *size, dtype=torch.uint8 if bits == 8 else torch.int32)
    for batch in batches:
        kept = [index - first for index in batch.indices if index < first + num]
        images[kept] = batch.images[: len(kept)].cpu().to(images.dtype)
    # Each image is zero on all processes but one.
    return sum_over_ranks(images.to(device)).cpu().to(DTYPE_OF_BITS[bits])


def check_sampler(sampler: Sampler, denoiser: Denoiser, codec: Codec, shape: Shape, cond: Cond, num: int = NUM_TRIED) -> None:
    """Raises UserError if the sampler does not work with the denoiser's schedule or network, as a trial step shows.

    cond: the condition of the `num` images of the trial; of more than one, as of one alone any scale can be multiplied with x.
    """
    images = torch.zeros(num, *shape, dtype=torch.uint8)
    sampler = sampler_for_codec(sampler, codec)
    try:
        x = codec.encode(images)
        t = on_device(sampler.times(denoiser.schedule)[:1], x).expand(num)
        given = (
            f"x_t {describe_tensors(x)}, t and s {describe_tensors(t)}, of which run.schedule(t) has the shape; "
            f"run.schedule.at(t, x_t) has [{num}{', 1' * (x.ndim - 1)}], to multiply x_t with"
        )
        network = next((part.network for part in denoiser.modules() if isinstance(part, NetworkDenoiser)), None)
        with explaining_foreign_errors({"sampler": sampler, "network": network}, {"sampler": given}):
            steps = sampler.trajectory(denoiser, sampler.start(denoiser.schedule, x), cond)
            x_t, x_s = next(steps), next(steps)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"sampler: {advised(error, SAMPLER_ADVICE)}") from error
    if describe_tensors(x_s) != describe_tensors(x_t):
        name, found = type(sampler).__name__, describe_tensors(x_s)
        raise UserError(f"sampler: {name}.step gives {found} for x_t {describe_tensors(x_t)}: need the same shape and dtype")
