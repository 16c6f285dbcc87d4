"""The denoising film: the states of a sampler from x_T to x_0."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from alphabar.diffusion.samplers import Sampler
from alphabar.sampling.conditions import dataset_conditions, preview_images
from alphabar.sampling.film import num_film_frames, record_film, write_film
from alphabar.sampling.guidance_config import Guide, guided
from alphabar.training.callbacks import RunCallback
from alphabar.training.callbacks.progress import show_phase
from alphabar.training.callbacks.sampling_callback import evaluations_per_image, sampling_job, text_of_samples
from alphabar.training.hooks import diffusion_module, evaluation, image_data
from alphabar.training.loggers.log_helpers import log_film, log_picture


class Film(RunCallback):
    """Writes `film.gif`, x_t beside the x_hat that is predicted from it, and `film.png`, both of the first four images, at the end.

    num: the number of images in the GIF, conditioned on the first held-out images. num_frames: the number of states of the sampler
    in the picture, from x_T to x_0 at even steps of log SNR; the GIF has about three times as many, if there are so many.
    Raises ValueError unless num >= 1 and num_frames >= 2.
    """

    draws_images = True

    def __init__(self, sampler: Sampler, seed: int, num: int = 8, num_frames: int = 12, guidance: Guide | None = None) -> None:
        if num < 1 or num_frames < 2:
            raise ValueError(f"need num >= 1 and num_frames >= 2, got num={num}, num_frames={num_frames}")
        self.sampler = sampler
        self.guidance = guidance
        self.seed = seed
        self.num = num
        self.num_frames = num_frames

    def planned_evaluations(self, trainer: Trainer, pl_module: LightningModule) -> int:
        return self.num * evaluations_per_image(trainer, diffusion_module(pl_module, self), self.sampler, self.guidance)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:  # a few images: not worth sharing, and nothing here waits for other ranks
            return
        module = diffusion_module(pl_module, self)
        conditions = dataset_conditions(module.conditioner, preview_images(image_data(trainer)))
        job = sampling_job(trainer, module, self.sampler, self.seed, self.num, conditions)
        num_steps = len(job.sampler.times(module.denoiser.schedule)) - 1
        with evaluation(trainer, module), show_phase(trainer, "film", num_steps, "step") as bar:
            num_frames = num_film_frames(self.num_frames)
            frames = record_film(job, guided(module, self.guidance), module.device, num_frames, bar.update)
        text = text_of_samples(trainer, self.sampler, self.guidance, self.seed)
        strip = write_film(frames, Path(trainer.default_root_dir), self.num_frames, text)
        log_picture(trainer, "film/strip", strip)
        log_film(trainer, "film/film", Path(trainer.default_root_dir) / "film.gif")
