"""Samples of a model during its training."""

from abc import ABC
from collections.abc import Iterator

from lightning.pytorch import Trainer

from alphabar.diffusion.samplers import Sampler
from alphabar.sampling.conditions import Conditions
from alphabar.sampling.guidance_config import Guide, guided
from alphabar.sampling.sampling_job import SampleBatch, SamplingJob, sampler_for_codec
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.stopping import interruptible
from alphabar.training.hooks import image_data
from alphabar.training.modules.diffusion import DiffusionModule


class SamplingCallback(Recurring, ABC):
    """A recurring callback that draws samples, always from the same noise.

    num: the number of samples, drawn by all ranks together, `batch_size` at a time. guidance: None for none.
    Raises ValueError unless num >= min_num and every_n_steps, batch_size >= 1.
    """

    min_num = 1

    def __init__(
        self, sampler: Sampler, seed: int, num: int, every_n_steps: int, batch_size: int = 64, guidance: Guide | None = None
    ) -> None:
        if num < self.min_num or min(every_n_steps, batch_size) < 1:
            raise ValueError(
                f"need num >= {self.min_num} and every_n_steps, batch_size >= 1, got num={num}, every_n_steps={every_n_steps}, "
                f"batch_size={batch_size}"
            )
        super().__init__(every_n_steps)
        self.sampler = sampler
        self.guidance = guidance
        self.seed = seed
        self.num = num
        self.batch_size = batch_size

    def sample_batches(
        self, trainer: Trainer, module: DiffusionModule, conditions: Conditions, num: int
    ) -> tuple[SamplingJob, Iterator[SampleBatch]]:
        """Returns the job of `num` samples with these conditions, and this process's share of them.

        A signal to stop ends them, see `interruptible`.
        """
        job = sampling_job(trainer, module, self.sampler, self.seed, min(self.batch_size, num), conditions)
        ranks = trainer.global_rank, trainer.world_size
        batches = job.images(guided(module, self.guidance), num, module.device, *ranks)
        return job, interruptible(batches, len(list(job.batches(num, 0, trainer.world_size))), module.device)


def sampling_job(
    trainer: Trainer, module: DiffusionModule, sampler: Sampler, seed: int, batch_size: int, conditions: Conditions
) -> SamplingJob:
    """Returns the job that draws samples of the module in the shape of the run's images."""
    codec = module.codec
    return SamplingJob(sampler_for_codec(sampler, codec), codec, image_data(trainer).shape, seed, batch_size, conditions)
