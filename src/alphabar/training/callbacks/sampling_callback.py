"""Samples of a model during its training."""

from abc import ABC
from collections.abc import Iterator

from lightning.pytorch import LightningModule, Trainer

from alphabar.data import Shape
from alphabar.diffusion.samplers import Sampler
from alphabar.evaluation.cost import Cost, counted_evaluations
from alphabar.files.picture_text import PictureText
from alphabar.runs.provenance.picture_record import picture_record
from alphabar.sampling.conditions import Conditions
from alphabar.sampling.guidance_config import Guide, guided
from alphabar.sampling.sampling_job import SampleBatch, SamplingJob, sampler_for_codec
from alphabar.training.callbacks.progress import show_phase
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.stopping import interruptible
from alphabar.training.hooks import diffusion_module, evaluation, image_data
from alphabar.training.modules.diffusion import DiffusionModule


class SamplingCallback(Recurring, ABC):
    """A recurring callback that draws samples, always from the same noise.

    title: names the samples while they are drawn.
    num: the number of samples, drawn by all ranks together, `batch_size` at a time. guidance: None for none.
    Raises ValueError unless num >= min_num and every_n_steps, batch_size >= 1.
    """

    min_num = 1
    title = "samples"

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

    def planned_evaluations(self, trainer: Trainer, pl_module: LightningModule) -> int:
        module = diffusion_module(pl_module, self)
        return self.num_acts(trainer) * self.num * evaluations_per_image(trainer, module, self.sampler, self.guidance)

    def sample_batches(
        self, trainer: Trainer, module: DiffusionModule, conditions: Conditions, num: int, shape: Shape | None = None
    ) -> tuple[SamplingJob, Iterator[SampleBatch]]:
        """Returns the job of `num` samples with these conditions, and this process's share of them. shape: as in `sampling_job`.

        A signal to stop ends them, see `interruptible`.
        """
        job = sampling_job(trainer, module, self.sampler, self.seed, min(self.batch_size, num), conditions, shape)
        ranks = trainer.global_rank, trainer.world_size
        num_batches = len(list(job.batches(num, 0, trainer.world_size)))
        num_steps = num_batches * (len(job.sampler.times(module.denoiser.schedule)) - 1)

        def batches() -> Iterator[SampleBatch]:
            with show_phase(trainer, self.title, num_steps, "step") as bar:
                images = job.images(guided(module, self.guidance), num, module.device, *ranks, on_step=bar.update)
                yield from interruptible(images, num_batches, module.device)

        return job, batches()


def evaluations_per_image(trainer: Trainer, module: DiffusionModule, sampler: Sampler, guidance: Guide | None) -> int:
    """Returns how often the network looks at an image that is sampled, as the first step tells."""
    job, cost = sampling_job(trainer, module, sampler, 0, 1, lambda indices: module.conditioner.null(1)), Cost()
    with evaluation(trainer, module), counted_evaluations(module.denoiser, cost):
        states = job.trajectory(guided(module, guidance), [0], module.device)
        next(states)  # x_T
        next(states)
    return cost.evaluations * (len(job.sampler.times(module.denoiser.schedule)) - 1)


def text_of_samples(trainer: Trainer, sampler: Sampler, guidance: Guide | None, seed: int) -> PictureText:
    """Returns what a picture of samples says of itself: the command of this start, the step, the sampler and the seed."""
    details = {"Step": trainer.global_step, "Sampler": repr(sampler), "Guidance": guidance and repr(guidance), "Seed": seed}
    return picture_record(details).text()


def sampling_job(
    trainer: Trainer,
    module: DiffusionModule,
    sampler: Sampler,
    seed: int,
    batch_size: int,
    conditions: Conditions,
    shape: Shape | None = None,
) -> SamplingJob:
    """Returns the job that draws samples of the module in a shape; None: that of the run's images."""
    codec, shape = module.codec, image_data(trainer).shape if shape is None else shape
    return SamplingJob(sampler_for_codec(sampler, codec), codec, shape, seed, batch_size, conditions)
