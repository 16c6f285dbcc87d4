"""What an image shows, as the vector that an image-text pair makes of it."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import ImageNoise
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import ImageConditioner
from alphabar.models.pairs import Pair
from alphabar.models.pairs.stored import must_be_the_same


class ImageEmbedding(ImageConditioner):
    """sqrt(D) * u, u the unit vector [D] of an image, for a decoder that inverts the image tower; Ramesh et al. 2022, sec. 2.1.

    An image of which nothing is told has a vector of its own, 0 at first, learned if dropout > 0.

    pair: neither trained nor saved. channels: D, for which the network is built.
    dropout: the share of training images that are told nothing.
    digest: of the pair, once something was trained with it; train.py fills it in.
    Raises ValueError unless channels is the pair's D and 0 <= dropout <= 1, and if the pair is another than that of `digest`.
    """

    def __init__(self, pair: Pair, channels: int, dropout: float = 0.1, digest: str | None = None) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"need 0 <= dropout <= 1, got dropout={dropout}")
        must_be_the_same(pair, digest)
        if channels != pair.width:
            raise ValueError(
                f"this pair gives vectors of {pair.width} numbers, not {channels}: set conditioning.vector={pair.width}"
            )
        self.pair = pair
        self.dropout = dropout
        self.nothing = nn.Parameter(torch.zeros(channels), requires_grad=dropout > 0)  # else no loss has a gradient for it

    @property
    def digest(self) -> str:
        """The digest of the image-text pair."""
        return self.pair.digest

    @property
    def frozen_parts(self) -> Mapping[str, str]:
        return {"pair_name": self.pair.name}

    @property
    def is_optional(self) -> bool:
        return self.dropout > 0

    def forward(self, batch: Mapping[str, Tensor]) -> Cond:
        if "image" not in batch:
            raise ValueError("conditioner=image_embedding needs the images themselves, and this batch has none")
        vector = self._scaled(self.embed(batch["image"].to(self.nothing.device)))
        if self.training and self.dropout > 0:
            dropped = torch.rand(len(vector), 1, device=vector.device) < self.dropout
            vector = torch.where(dropped, self.nothing, vector)
        return {"vector": vector}

    def null(self, num: int) -> Cond:
        return {"vector": self.nothing.expand(num, -1)}

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        raise ValueError("this model is conditioned on images, not on text: give images=PATH, or stages=[PRIOR] for prompts")

    def must_follow(self, codec: Codec, channels: int, resolution: int) -> None:
        if codec.makes_images:
            return
        if codec.embedder is None:
            raise ValueError("need a model of images or of image embeddings before conditioner=image_embedding")
        if codec.embedder.digest != self.pair.digest:
            raise ValueError(
                "need embeddings of the same image-text pair before conditioner=image_embedding, got those of digest "
                f"{codec.embedder.digest[:12]}, not {self.pair.digest[:12]}"
            )

    def from_image(self, images: Tensor, noise: ImageNoise) -> Cond:
        """images: uint8 [B, 1 or 3, H, W] of any size, or their vectors float [B, D], of which only the direction counts."""
        if images.dtype == torch.uint8:
            return {"vector": self._scaled(self.embed(images.to(self.nothing.device)))}
        if images.dim() != 2 or images.shape[1] != len(self.nothing):
            raise ValueError(f"need uint8 images or vectors [B, {len(self.nothing)}], got {images.dtype} {list(images.shape)}")
        return {"vector": self._scaled(nn.functional.normalize(images.to(self.nothing.device).float(), dim=1))}

    def embed(self, images: Tensor) -> Tensor:
        return self.pair.images(images)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return vectors * math.sqrt(len(self.nothing))
