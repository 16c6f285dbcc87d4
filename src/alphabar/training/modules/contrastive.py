"""The LightningModule of CLIP: contrastive learning of images and their captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.models.clip import must_be_images
from alphabar.models.clip.towers import Towers, pool
from alphabar.models.embeddings import cached_embeddings
from alphabar.models.resize import resize
from alphabar.training.modules.base import BaseModule, MakeOptimizer, NextStep, network_summary
from alphabar.training.optimization.lr_schedules import LRSchedule, MakeLRScheduler


@dataclass(frozen=True)
class Augmentation:
    """Moves, zooms, coarsens and adds noise to images at random, so that the towers also embed samples of diffusion models.

    resolutions: one for each equal part of a batch, which has no finer detail. shift: at most, as a share of the side.
    zoom: by exp(u), u in -zoom..zoom. noise: its standard deviation at most, in 0..255.
    Raises ValueError unless there are resolutions, all >= 1, and the others are >= 0.
    """

    resolutions: Sequence[int] = (16, 32, 64)
    shift: float = 0.08
    zoom: float = 0.15
    noise: float = 10.0

    def __post_init__(self) -> None:
        if not self.resolutions or min(self.resolutions) < 1:
            raise ValueError(f"need resolutions >= 1, such as [16, 32, 64], got {list(self.resolutions)}")
        if min(self.shift, self.zoom, self.noise) < 0:
            raise ValueError(f"need shift, zoom and noise >= 0, got shift={self.shift}, zoom={self.zoom}, noise={self.noise}")

    def __call__(self, images: Tensor, resolution: int) -> Tensor:
        """Returns float32 [B, 3, resolution, resolution] in 0..255 from uint8 [B, 3, H, W]; draws from the global stream."""
        num, device = len(images), images.device
        zoom = (self.zoom * (2 * torch.rand(num, device=device) - 1)).exp()
        move = 2 * self.shift * (2 * torch.rand(num, 2, device=device) - 1)  # of a side that is 2 long
        affine = torch.cat([torch.diag_embed(zoom[:, None].expand(-1, 2)), move[:, :, None]], dim=2)
        with torch.autocast(device.type, enabled=False):  # in bfloat16, coordinates are a pixel apart
            grid = F.affine_grid(affine, list(images.shape), align_corners=False)
            moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        parts = zip(moved.tensor_split(len(self.resolutions)), self.resolutions, strict=True)
        coarse = torch.cat([resize(resize(part, size), resolution) for part, size in parts if len(part)])
        level = self.noise * torch.rand(num, 1, 1, 1, device=device)
        return (coarse + level * torch.randn_like(coarse)).clamp(0, 255)


class ContrastiveModule(BaseModule):
    """Trains two towers to tell which caption belongs to which image; Radford et al. 2021, sec. 2.3.

    loss_i = (-log softmax_j(s * <u_i, v_j>)_i - log softmax_j(s * <u_j, v_i>)_i) / 2 over the batch, u of images, v of captions,
    s the inverse temperature. Another image with the same caption is no negative. Each process compares within its own batch.

    optimizer, seed, lr_scheduler: see `BaseModule`.
    cache_dir: where the embeddings of the captions are kept.
    """

    def __init__(
        self,
        towers: Towers,
        augmentation: Augmentation,
        optimizer: MakeOptimizer,
        seed: int,
        lr_scheduler: LRSchedule | MakeLRScheduler | None = None,
        cache_dir: str = "outputs/cache/text",
    ) -> None:
        super().__init__(optimizer, seed, lr_scheduler)
        self.towers = towers
        self.augmentation = augmentation
        self.cache_dir = user_path(cache_dir)
        self.pooled: Tensor | None = None  # no buffer: DDP would send it from process to process in each step

    @property
    def reads_captions(self) -> bool:
        return True

    def attach_data(self, data: ImageDataModule) -> None:
        captions, encoder = data.captions, self.towers.encoder
        if captions is None:
            reason = data.reason_for_none("captions")
            raise UserError(f"experiment=contrastive needs images with captions, and these data have none{reason}")
        if data.batch_size < 2:
            raise UserError(f"data.batch_size={data.batch_size}: need two images or more to tell one from another")
        self.pooled = pool(cached_embeddings(encoder, captions, torch.device("cpu"), self.cache_dir))
        encoder.forget()
        if self.pooled.shape[1] != self.towers.text_channels:
            raise UserError(
                f"the text encoder {encoder.name} gives tokens of {self.pooled.shape[1]} numbers, not {self.towers.text_channels}: "
                f"set module.towers.text_channels={self.pooled.shape[1]}"
            )

    def captions(self, rows: Tensor) -> Tensor:
        """Returns unit vectors [B, D] of captions of the data, by their indices int64 [B]."""
        if self.pooled is None:
            raise ValueError("need the captions of the data before its batches: call attach_data(data)")
        self.pooled = self.pooled.to(self.device)
        return self.towers.texts(self.pooled[rows.to(self.device)])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        self.seed_step(batch_idx)
        images = self.augmentation(must_be_images(batch["image"]), self.towers.resolution)
        losses = contrastive_loss(self.towers.images(images), self.captions(batch["caption"]), batch["caption"], self.towers.scale)
        return {"loss": losses.mean(), "losses": losses.detach(), "parts": {"scale": self.towers.scale.detach()}}

    def sweep_objective(self) -> float | None:
        found = self.figures.get("retrieval/caption_of_all")
        return None if found is None else -found

    @property
    def composition(self) -> dict[str, str]:
        return {"network": network_summary(self.towers), "method": f"contrastive, texts by {self.towers.encoder.name}"}

    @property
    def next_steps(self) -> tuple[NextStep, ...]:
        return (
            NextStep("prior", "clip", "python train.py experiment=unclip_prior clip={folder}/clip data.root=..."),
            NextStep("decoder", "clip", "python train.py experiment=unclip_decoder clip={folder}/clip data.root=..."),
            NextStep("judge", "clip", "python evaluate.py checkpoint=... features=contrastive features.name={folder}/clip"),
        )


def contrastive_loss(images: Tensor, texts: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Returns the symmetric loss [B] of unit vectors [B, D], in float32; images with equal `captions` [B] are no negatives."""
    with torch.autocast(images.device.type, enabled=False):
        logits = scale.float() * images.float() @ texts.float().T
    has_same_caption = captions[:, None] == captions[None]
    is_left_out = has_same_caption & ~torch.eye(len(captions), dtype=torch.bool, device=captions.device)
    logits = logits.masked_fill(is_left_out, float("-inf"))
    targets = torch.arange(len(captions), device=logits.device)
    return (F.cross_entropy(logits, targets, reduction="none") + F.cross_entropy(logits.T, targets, reduction="none")) / 2
