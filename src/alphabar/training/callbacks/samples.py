"""Grids of samples from the same noise during training."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from alphabar.diffusion.samplers import Sampler
from alphabar.sampling.guidance_config import Guide, guided
from alphabar.sampling.image_grid import save_png
from alphabar.sampling.preview import preview
from alphabar.sampling.sampling_job import SamplingJob, gather, sampler_for
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.hooks import diffusion_module, evaluation, image_data, image_shape
from alphabar.training.loggers.log_helpers import log_picture


class Samples(Recurring):
    """Writes `samples/step_N.png`: before the first step, every so many steps, and at the end.

    num: images, drawn by all ranks together, `batch_size` at a time. guidance: of a model with a condition; None: none. With
    classes, each row is of one class, over and over; captions stand below the images, pictures to the left of them.
    Raises ValueError unless num, every_n_steps, batch_size >= 1.
    """

    draws_images = True

    def __init__(
        self, sampler: Sampler, seed: int, num: int, every_n_steps: int, batch_size: int = 64, guidance: Guide | None = None
    ) -> None:
        if min(num, every_n_steps, batch_size) < 1:
            raise ValueError(
                f"need num, every_n_steps and batch_size >= 1, got num={num}, every_n_steps={every_n_steps}, "
                f"batch_size={batch_size}"
            )
        super().__init__(every_n_steps)
        self.sampler = sampler
        self.guidance = guidance
        self.seed = seed
        self.num = num
        self.batch_size = batch_size

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self.act_now(trainer, pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        module = diffusion_module(pl_module)
        shown = preview(module.conditioner, image_data(trainer), self.num)
        batch_size = min(self.batch_size, shown.num)
        generation = SamplingJob(
            sampler_for(self.sampler, module.codec), module.codec, image_shape(trainer), self.seed, batch_size, shown.conditions
        )
        with evaluation(trainer, module):
            denoiser, ranks = guided(module, self.guidance), (trainer.global_rank, trainer.world_size)
            share = generation.images(denoiser, shown.num, module.device, *ranks)
            picture = shown.picture(gather(generation.size, shown.num, share, module.device))
        if trainer.is_global_zero:
            save_png(picture, Path(trainer.default_root_dir) / "samples" / f"step_{trainer.global_step:07d}.png")
            log_picture(trainer, "samples", picture, shown.text)
