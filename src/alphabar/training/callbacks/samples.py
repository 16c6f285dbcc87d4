"""Grids of samples from the same noise during training."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from alphabar.sampling.image_grid import save_png
from alphabar.sampling.preview import preview, preview_size
from alphabar.sampling.sampling_job import gather_images
from alphabar.training.callbacks.sampling_callback import SamplingCallback, evaluations_per_image, text_of_samples
from alphabar.training.hooks import diffusion_module, evaluation, image_data
from alphabar.training.loggers.log_helpers import log_picture


class Samples(SamplingCallback):
    """Writes `samples/step_N.png`: before the first step, every so many steps, and at the end.

    With classes, each row is of one class, over and over; captions stand below the images, pictures to the left of them. Real
    images, always the same, stand beside the samples: held-out ones, or training images where none are held out.
    Arguments and errors: see `SamplingCallback`.
    """

    draws_images = True
    acts_at_start = True

    def planned_evaluations(self, trainer: Trainer, pl_module: LightningModule) -> int:
        module = diffusion_module(pl_module, self)
        num = preview_size(module.conditioner, self.num)
        return self.num_acts(trainer) * num * evaluations_per_image(trainer, module, self.sampler, self.guidance)

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        module = diffusion_module(pl_module, self)
        shown = preview(module.conditioner, image_data(trainer), self.num)
        with evaluation(trainer, module):
            job, batches = self.sample_batches(trainer, module, shown.conditions, shown.num)
            picture = shown.picture(gather_images(job.shape, shown.num, batches, module.device, bits=job.codec.bits))
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "samples" / f"step_{trainer.global_step:07d}.png"
            save_png(picture, path, text_of_samples(trainer, self.sampler, self.guidance, self.seed))
            log_picture(trainer, "samples", picture, shown.text)
