"""From a denoiser to images, the same images on any number of processes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers import Sampler
from alphabar.models.codecs import Codec
from alphabar.training.callbacks.ema import averaged
from alphabar.training.data import Shape
from alphabar.training.module import DiffusionModule


class Generated(NamedTuple):
    """Images [B, C, H, W] uint8 with their indices, and which of them [B] are free of NaN and infinity."""

    indices: list[int]
    images: Tensor
    finite: Tensor


@dataclass(frozen=True)
class Generation:
    """What is drawn: image i is a function of the weights, the sampler, the seed and i.

    batch_size: images at a time. Every batch has this size, the last one padded, since the shape of a batch can move the last bit.
    """

    sampler: Sampler
    shape: Shape
    seed: int
    batch_size: int

    @property
    def size(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.shape.channels, self.shape.resolution, self.shape.resolution

    def batches(self, num: int, rank: int = 0, world_size: int = 1) -> Iterator[list[int]]:
        """This process's share of the indices 0..num - 1, a batch at a time, those that only pad included."""
        if num < 1:
            raise ValueError(f"need num >= 1, got num={num}")
        for start in range(rank * self.batch_size, num, world_size * self.batch_size):
            yield list(range(start, start + self.batch_size))

    def trajectory(self, denoiser: Denoiser, indices: Sequence[int], device: torch.device) -> Iterator[Tensor]:
        """x at every time of the sampler's grid, x_T first."""
        noise = ImageNoise(self.seed, indices)
        x_T = noise.draw(self.size, device) * denoiser.schedule.prior_std
        return self.sampler.trajectory(denoiser, x_T, noise=noise)

    def images(
        self,
        denoiser: Denoiser,
        codec: Codec,
        num: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        on_step: Callable[[], None] = lambda: None,
    ) -> Iterator[Generated]:
        """This process's share of `num` images; `on_step` is called after every step of the sampler."""
        for padded in self.batches(num, rank, world_size):
            indices = [index for index in padded if index < num]
            x = torch.empty(0)
            for step, x in enumerate(self.trajectory(denoiser, padded, device)):  # noqa: B007
                if step > 0:
                    on_step()
            x = x[: len(indices)]
            yield Generated(indices, codec.decode(x), x.isfinite().flatten(1).all(1))


@contextmanager
def evaluation(trainer: Trainer, module: DiffusionModule) -> Iterator[None]:
    """Around everything that looks at the model during training: averaged weights, no dropout, no gradients, the run's precision.

    Its time is counted on the module, so that images per second are those of training.
    """
    begin = time.perf_counter()
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), averaged(trainer, module), trainer.precision_plugin.forward_context():
            yield
    finally:
        module.train(was_training)
        module.seconds_evaluating += time.perf_counter() - begin


def gather(trainer: Trainer, generation: Generation, num: int, share: Sequence[Generated]) -> Tensor:
    """All `num` images on every rank, in order, from the share of each: uint8 [num, C, H, W] on the CPU."""
    images = torch.zeros(num, *generation.size, dtype=torch.uint8)
    for part in share:
        images[part.indices] = part.images.cpu()
    if trainer.world_size > 1:  # each image is zero on all ranks but one
        on_device = images.to(trainer.strategy.root_device, torch.int32)
        images = trainer.strategy.reduce(on_device, reduce_op="sum").to("cpu", torch.uint8)
    return images


def due(trainer: Trainer, every_n_steps: int, last: int) -> bool:
    """Whether something done every so many optimizer steps is due now, and has not been done at this step (`last`)."""
    step = trainer.global_step
    return step != last and (step % every_n_steps == 0 or step == trainer.max_steps)


def diffusion_module(pl_module: LightningModule) -> DiffusionModule:
    """The module as what it is. Raises TypeError for another's."""
    if not isinstance(pl_module, DiffusionModule):
        raise TypeError(f"this callback looks at a DiffusionModule, got {type(pl_module).__name__}")
    return pl_module


def image_shape(trainer: Trainer) -> Shape:
    """The shape of the run's images."""
    return trainer.datamodule.shape  # type: ignore[attr-defined]
