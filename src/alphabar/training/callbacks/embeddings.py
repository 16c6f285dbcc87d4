"""Similarity of the embeddings that a prior samples to those of images with the same caption."""

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.metrics.retrieval import candidates, is_retrieved
from alphabar.runs.processes.distributed import sum_over_ranks
from alphabar.sampling.conditions import dataset_conditions
from alphabar.sampling.guidance_config import Guide
from alphabar.training.callbacks.retrieval import first_of_each_caption
from alphabar.training.callbacks.sampling_callback import SamplingCallback
from alphabar.training.hooks import diffusion_module, evaluation, image_data
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.modules.diffusion import DiffusionModule


class EmbeddingSimilarity(SamplingCallback):
    """Draws a vector for each of the first held-out captions, again and again from the same noise.

    `embeddings/cosine` is its scalar product with that of the held-out image, `embeddings/cosine_shuffled` with that of another,
    and `embeddings/caption_of_10` the share of vectors to which, of ten captions, their own is the nearest (chance 0.1);
    `embeddings/real_caption_of_10` is that of the held-out images themselves.

    num: the number of captions at most. Other arguments and errors: see `SamplingCallback`.
    Raises UserError for a codec that embeds no images and for data with fewer held-out captions than two.
    """

    min_num = 2

    def __init__(
        self, sampler: Sampler, seed: int, num: int, every_n_steps: int, batch_size: int = 128, guidance: Guide | None = None
    ) -> None:
        super().__init__(sampler, seed, num, every_n_steps, batch_size, guidance)
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.images = self.texts = torch.zeros(0, 0)  # vectors of the held-out images and of their captions

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, data = diffusion_module(pl_module, self), image_data(trainer)
        if (clip := module.codec.embedder) is None:
            raise UserError("callbacks.embeddings: looks at models with codec=image_embedding; null leaves it out")
        self.rows = first_of_each_caption(data.held_out_set, self.num)
        if data.captions is None or len(self.rows) < 2:
            raise UserError("callbacks.embeddings: needs two held-out images or more, of different captions; null leaves it out")
        batch = data.held_out_set.batch(self.rows)
        with evaluation(trainer, module):
            self.images = clip.images(batch["image"].to(module.device)).cpu()
            self.texts = clip.texts([data.captions[place] for place in batch["caption"].tolist()], module.device).cpu()

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        module = diffusion_module(pl_module, self)
        with evaluation(trainer, module):
            vectors = self._vectors(trainer, module)
        log_figures(trainer, similarity_figures(vectors, self.images, self.texts))

    def _vectors(self, trainer: Trainer, module: DiffusionModule) -> Tensor:
        """Returns sampled unit vectors [num, D], one for each caption, on the CPU of every process."""
        conditions_of_image = dataset_conditions(module.conditioner, image_data(trainer).held_out_set)

        def conditions(indices: Sequence[int]) -> Cond:
            return conditions_of_image([int(self.rows[index % len(self.rows)]) for index in indices])

        job, batches = self.sample_batches(trainer, module, conditions, len(self.rows))
        vectors = torch.zeros(len(self.rows), *job.space)
        for batch in batches:
            vectors[batch.indices] = batch.images.float().cpu()
        # Each vector is zero on all processes but one.
        return sum_over_ranks(vectors.to(module.device)).cpu()


def similarity_figures(drawn: Tensor, images: Tensor, texts: Tensor) -> dict[str, float]:
    """Returns the four figures of N sampled embeddings [N, D], given those of the images and of their captions, all different."""
    places = torch.arange(len(drawn))
    options = texts[candidates(places, places, len(places))]
    return {
        "embeddings/cosine": float((drawn * images).sum(1).mean()),
        "embeddings/cosine_shuffled": float((drawn * images.roll(1, 0)).sum(1).mean()),
        "embeddings/caption_of_10": float(is_retrieved(drawn, options).double().mean()),
        "embeddings/real_caption_of_10": float(is_retrieved(images, options).double().mean()),
    }
