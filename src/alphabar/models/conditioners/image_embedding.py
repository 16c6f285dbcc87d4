"""The CLIP embedding of an image as its condition."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, ImageNoise, RankShare
from alphabar.models.clip import CLIP, must_have_digest
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import ImageConditioner


class ImageEmbedding(ImageConditioner):
    """The condition is sqrt(D) * u, u the CLIP embedding [D] of an image (unCLIP's decoder; Ramesh et al. 2022, sec. 2.1).

    The null condition is a vector of its own, which starts at 0 and is learned if dropout > 0.

    clip: neither trained nor saved. channels: D, for which the network is built.
    dropout: the share of training images that get the null condition.
    digest: that of the CLIP in training, which train.py fills in.
    Raises ValueError unless channels is the CLIP's D and 0 <= dropout <= 1, and if the CLIP has another digest.
    """

    def __init__(self, clip: CLIP, channels: int, dropout: float = 0.1, digest: str | None = None) -> None:
        super().__init__(dropout)
        must_have_digest(clip, digest)
        if channels != clip.width:
            raise ValueError(
                f"this CLIP gives vectors of {clip.width} numbers, not {channels}: set conditioning.vector={clip.width}"
            )
        self.clip = clip
        self.nothing = nn.Parameter(torch.zeros(channels), requires_grad=dropout > 0)  # else no loss has a gradient for it

    @property
    def digest(self) -> str:
        """The digest of the CLIP."""
        return self.clip.digest

    @property
    def frozen_parts(self) -> Mapping[str, str]:
        return {"clip_name": self.clip.name}

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        if "image" not in batch:
            raise ValueError("conditioner=image_embedding needs the images themselves, and this batch has none")
        vector = self._scaled(self.embed(batch["image"].to(self.nothing.device)))
        return {"vector": torch.where(self.dropped(len(vector), vector.device, share)[:, None], self.nothing, vector)}

    def null(self, num: int) -> Cond:
        return {"vector": self.nothing.expand(num, -1)}

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        raise ValueError("this model is conditioned on images, not on text: give images=PATH, or 'stages=[PRIOR]' for prompts")

    def must_follow(self, codec: Codec, channels: int, height: int, width: int) -> None:
        if codec.makes_images:
            return
        if codec.embedder is None:
            raise ValueError("need a model of images or of image embeddings before conditioner=image_embedding")
        if codec.embedder.digest != self.clip.digest:
            raise ValueError(
                "need embeddings of the same CLIP before conditioner=image_embedding, got those of digest "
                f"{codec.embedder.digest[:12]}, not {self.clip.digest[:12]}"
            )

    def from_image(self, images: Tensor, noise: ImageNoise) -> Cond:
        """Accepts uint8 images [B, 1 or 3, H, W] of any size, or their vectors float [B, D], of which only the direction counts."""
        if images.dtype == torch.uint8:
            return {"vector": self._scaled(self.embed(images.to(self.nothing.device)))}
        if images.dim() != 2 or images.shape[1] != len(self.nothing):
            raise ValueError(f"need uint8 images or vectors [B, {len(self.nothing)}], got {images.dtype} {list(images.shape)}")
        return {"vector": self._scaled(nn.functional.normalize(images.to(self.nothing.device).float(), dim=1))}

    def embed(self, images: Tensor) -> Tensor:
        return self.clip.images(images)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return vectors * math.sqrt(len(self.nothing))
