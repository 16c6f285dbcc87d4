"""Embeddings of both towers of a CLIP as features, with which retrieval is measured."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alphabar.files.cache import DiskCache
from alphabar.files.paths import user_path
from alphabar.metrics import Extractor, Features, Splits
from alphabar.models.clip import CLIP
from alphabar.models.clip.stored import StoredCLIP
from alphabar.runs.processes.distributed import from_first

VERSION = 2
MAX_BATCH = 250


class ContrastiveNetwork(nn.Module):
    """Maps uint8 images [B, 1 or 3, H, W] to their embeddings, unit vectors float32 [B, D]."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor) -> Tensor:
        return self.clip.images(images)


@dataclass(frozen=True)
class ContrastiveFeatures(Features):
    """Embeddings of images, and those of the data's captions to compare them with.

    name: RUN/clip of experiment=contrastive, or any CLIP, by name or path.
    cache_dir: the folder in which results for real images are cached.
    """

    name: str
    cache_dir: str

    @property
    def reads_captions(self) -> bool:
        return True

    def extractors(self, splits: Splits) -> list[Extractor]:
        clip = StoredCLIP(self.name)
        digest, texts = from_first(lambda: (clip.digest, self._texts(clip, splits)))
        # Both texts stand in receipts since before CLIPs were called so here: with others, figures could not be compared.
        name, description = f"pair_{digest[:8]}", f"image-text pair, {clip.width} features, weights {digest[:16]}"
        return [
            Extractor(
                ContrastiveNetwork(clip), clip.width, name, description, (1, 3), MAX_BATCH, user_path(self.cache_dir), texts=texts
            )
        ]

    def _texts(self, clip: CLIP, splits: Splits) -> Tensor | None:
        """Returns the embeddings [N, D] of the data's captions, or None if there are fewer than two."""
        captions = splits.captions
        if captions is None or len(captions) < 2:
            return None
        cache = DiskCache(user_path(self.cache_dir))
        path = cache.path("captions", VERSION, clip.digest, list(captions))
        return cache.load_or_make(path, lambda: {"texts": clip.texts(list(captions), torch.device("cpu"))})["texts"]
