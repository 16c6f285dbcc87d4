"""Similarity of the embeddings that a prior samples to those of images with the same caption."""

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.metrics.retrieval import candidates, is_retrieved
from alphabar.runs.distributed import sum_over_ranks
from alphabar.sampling.conditions import dataset_conditions
from alphabar.sampling.guidance_config import Guide, guided
from alphabar.sampling.sampling_job import SamplingJob, sampler_for
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.retrieval import one_of_each
from alphabar.training.hooks import diffusion_module, evaluation, image_data, image_shape
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.modules.diffusion import DiffusionModule


class Embeddings(Recurring):
    """Draws a vector for each of the first held-out captions, again and again from the same noise.

    `embeddings/cosine` is its scalar product with that of the held-out image, `embeddings/cosine_shuffled` with that of another,
    and `embeddings/caption_of_10` the share of vectors to which, of ten captions, their own is the nearest (chance 0.1);
    `embeddings/real_caption_of_10` is that of the held-out images themselves.

    num: captions at most, drawn by all ranks together, `batch_size` at a time. guidance: of a model with a condition; None: none.
    Raises ValueError unless num >= 2 and every_n_steps, batch_size >= 1, and UserError for a codec that embeds no images and for
    data with fewer held-out captions than two.
    """

    def __init__(
        self, sampler: Sampler, seed: int, num: int, every_n_steps: int, batch_size: int = 128, guidance: Guide | None = None
    ) -> None:
        if num < 2 or min(every_n_steps, batch_size) < 1:
            raise ValueError(
                f"need num >= 2 and every_n_steps, batch_size >= 1, got num={num}, every_n_steps={every_n_steps}, "
                f"batch_size={batch_size}"
            )
        super().__init__(every_n_steps)
        self.sampler = sampler
        self.guidance = guidance
        self.seed = seed
        self.num = num
        self.batch_size = batch_size
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.images = self.texts = torch.zeros(0, 0)  # vectors of the held-out images and of their captions

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, data = diffusion_module(pl_module), image_data(trainer)
        if (clip := module.codec.embedder) is None:
            raise UserError("callbacks.embeddings: looks at models with codec=image_embedding; null leaves it out")
        self.rows = one_of_each(data.held_out_set, self.num)
        if data.captions is None or len(self.rows) < 2:
            raise UserError("callbacks.embeddings: needs two held-out images or more, of different captions; null leaves it out")
        batch = data.held_out_set.batch(self.rows)
        with evaluation(trainer, module):
            self.images = clip.images(batch["image"].to(module.device)).cpu()
            self.texts = clip.texts([data.captions[place] for place in batch["caption"].tolist()], module.device).cpu()

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        module = diffusion_module(pl_module)
        with evaluation(trainer, module):
            drawn = self._drawn(trainer, module)
        log_figures(trainer, figures_of(drawn, self.images, self.texts))

    def _drawn(self, trainer: Trainer, module: DiffusionModule) -> Tensor:
        """Returns sampled unit vectors [num, D], one for each caption, on the CPU of every process."""
        of_row = dataset_conditions(module.conditioner, image_data(trainer).held_out_set)

        def conditions(indices: Sequence[int]) -> Cond:
            return of_row([int(self.rows[index % len(self.rows)]) for index in indices])

        num, batch_size = len(self.rows), min(self.batch_size, len(self.rows))
        sampler = sampler_for(self.sampler, module.codec)
        generation = SamplingJob(sampler, module.codec, image_shape(trainer), self.seed, batch_size, conditions)
        drawn = torch.zeros(num, *generation.space)
        ranks = (trainer.global_rank, trainer.world_size)
        for part in generation.images(guided(module, self.guidance), num, module.device, *ranks):
            kept = [index for index in part.indices if index < num]
            drawn[kept] = part.images[: len(kept)].float().cpu()
        # Each vector is zero on all processes but one.
        return sum_over_ranks(drawn.to(module.device)).cpu()


def figures_of(drawn: Tensor, images: Tensor, texts: Tensor) -> dict[str, float]:
    """Returns the four figures of N sampled embeddings [N, D], given those of the images and of their captions, all different."""
    places = torch.arange(len(drawn))
    options = texts[candidates(places, places, len(places))]
    return {
        "embeddings/cosine": float((drawn * images).sum(1).mean()),
        "embeddings/cosine_shuffled": float((drawn * images.roll(1, 0)).sum(1).mean()),
        "embeddings/caption_of_10": float(is_retrieved(drawn, options).double().mean()),
        "embeddings/real_caption_of_10": float(is_retrieved(images, options).double().mean()),
    }
