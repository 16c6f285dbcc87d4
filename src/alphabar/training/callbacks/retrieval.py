"""Retrieval of held-out captions and images by a CLIP that is being trained."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.errors import UserError
from alphabar.metrics.retrieval import candidates, ranks_first
from alphabar.models.clip import must_be_images
from alphabar.runs.processes.distributed import from_first
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.hooks import checked_module, evaluation, image_data
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.modules.contrastive import ContrastiveModule

BATCH = 128


class HeldOutRetrieval(Recurring):
    """Logs the share of held-out images whose own caption is the nearest, and of captions whose own image is; of averaged weights.

    `retrieval/caption_of_10` is among its caption and nine others (chance 0.1), `retrieval/caption_of_all` among all held-out
    captions, `retrieval/image_of_...` the other way round. One image of each caption takes part. The first process measures.

    num: held-out images at most, the first ones. Raises ValueError unless num >= 2 and every_n_steps >= 1, and UserError for data
    with fewer held-out captions than two.
    """

    def __init__(self, num: int, every_n_steps: int) -> None:
        if num < 2 or every_n_steps < 1:
            raise ValueError(f"need num >= 2 and every_n_steps >= 1, got num={num}, every_n_steps={every_n_steps}")
        super().__init__(every_n_steps)
        self.num = num
        self.rows = torch.zeros(0, dtype=torch.int64)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = first_of_each_caption(image_data(trainer).held_out_set, self.num)
        if len(self.rows) < 2:
            raise UserError("callbacks.retrieval: needs two held-out images or more, of different captions; null leaves it out")

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        module, held_out = checked_module(pl_module, ContrastiveModule, self), image_data(trainer).held_out_set
        with evaluation(trainer, module):
            figures = from_first(lambda: measure_retrieval(module, held_out, self.rows))
        log_figures(trainer, figures)


def first_of_each_caption(images: ImageSet, num: int) -> Tensor:
    """Returns indices int64 of the first image of each caption, at most `num`; none where there are no captions."""
    if images.captions is None:
        return torch.zeros(0, dtype=torch.int64)
    first: dict[int, int] = {}
    for place, caption in enumerate(images.captions.tolist()):
        first.setdefault(caption, place)
    return torch.tensor(list(first.values())[:num], dtype=torch.int64)


def measure_retrieval(module: ContrastiveModule, held_out: ImageSet, rows: Tensor) -> dict[str, float]:
    """Returns the four figures of the held-out images `rows`."""
    images, texts = [], []
    for part in rows.split(BATCH):
        batch = held_out.batch(part)
        images.append(module.towers.images(must_be_images(batch["image"].to(module.device))).cpu())
        texts.append(module.captions(batch["caption"]).cpu())
    return retrieval_figures(torch.cat(images), torch.cat(texts))


def retrieval_figures(images: Tensor, texts: Tensor) -> dict[str, float]:
    """Returns the four figures of N pairs: unit vectors [N, D] of images and of their captions, all different."""
    places = torch.arange(len(images))
    candidate_indices = candidates(places, places, len(places))
    similarity = images.double() @ texts.double().T
    figures: dict[str, float] = {}
    for word, rows in (("caption", similarity), ("image", similarity.T)):
        own = rows.diagonal()[:, None]
        for label, options in (("10", rows.gather(1, candidate_indices)), ("all", rows)):
            figures[f"retrieval/{word}_of_{label}"] = float(ranks_first(own, options).double().mean())
    return figures
