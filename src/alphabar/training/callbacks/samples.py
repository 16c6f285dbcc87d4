"""Grids of samples from the same noise during training."""

from dataclasses import replace
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from alphabar.data import Shape
from alphabar.sampling.image_grid import column_of_pictures, save_png
from alphabar.sampling.preview import preview, preview_size
from alphabar.sampling.sampling_job import gather_images
from alphabar.training.callbacks.sampling_callback import SamplingCallback, evaluations_per_image, text_of_samples
from alphabar.training.hooks import diffusion_module, evaluation, image_data
from alphabar.training.loggers.log_helpers import log_picture
from alphabar.training.modules.diffusion import DiffusionModule


class Samples(SamplingCallback):
    """Writes `samples/step_N.png`: before the first step, every so many steps, and at the end.

    With classes, each row is of one class, over and over; captions stand below the images, pictures to the left of them. Real
    images, always the same, stand beside the samples: held-out ones, or training images where none are held out. With
    `data.buckets` a grid of each other bucket stands below, of a share of `num` images, without real ones.
    Arguments and errors: see `SamplingCallback`.
    """

    draws_images = True
    acts_at_start = True

    def planned_evaluations(self, trainer: Trainer, pl_module: LightningModule) -> int:
        module = diffusion_module(pl_module, self)
        num = sum(preview_size(module.conditioner, num) for num in self.num_of_shapes(trainer, module).values())
        return self.num_acts(trainer) * num * evaluations_per_image(trainer, module, self.sampler, self.guidance)

    def num_of_shapes(self, trainer: Trainer, module: DiffusionModule) -> dict[Shape, int]:
        """Returns about how many images are drawn of each shape: that of the data, and those of other buckets unless images are the
        condition, which have that shape alone."""
        data = image_data(trainer)
        others = [] if module.conditioner.takes_images else [shape for shape in data.training_shapes if shape != data.shape]
        return {data.shape: self.num, **{shape: max(1, self.num // len(others)) for shape in others}}

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        module, data = diffusion_module(pl_module, self), image_data(trainer)
        pictures: list[Tensor] = []
        texts: list[str | None] = []
        with evaluation(trainer, module):
            for shape, num in self.num_of_shapes(trainer, module).items():
                shown = preview(module.conditioner, data, num)
                if shape != data.shape:
                    shown = replace(shown, real=None, size=f" {shape.height}x{shape.width}")
                job, batches = self.sample_batches(trainer, module, shown.conditions, shown.num, shape)
                texts.append(shown.text)
                pictures.append(shown.picture(gather_images(shape, shown.num, batches, module.device, bits=job.codec.bits)))
        picture = column_of_pictures(pictures)
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "samples" / f"step_{trainer.global_step:07d}.png"
            save_png(picture, path, text_of_samples(trainer, self.sampler, self.guidance, self.seed))
            log_picture(trainer, "samples", picture, texts[0])
