"""Features of an image-text pair, which retrieval is measured with."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from alphabar.metrics import Extractor, Features, Splits, cache
from alphabar.models.pairs import Pair
from alphabar.models.pairs.stored import StoredPair
from alphabar.runs.distributed import from_first

VERSION = 1
MAX_BATCH = 250


class PairNetwork(nn.Module):
    """uint8 [B, 1 or 3, H, W] -> float32 [B, D], the vectors of the images, of length one."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, images: Tensor) -> Tensor:
        return self.pair.images(images)


@dataclass(frozen=True)
class PairFeatures(Features):
    """The vectors of an image-text pair, and those of the data's captions to compare them with.

    name: RUN/pair of experiment=contrastive, or any CLIP, by name or path.
    cache_dir: where what is computed with the features of real images is kept.
    """

    name: str
    cache_dir: str

    def extractors(self, splits: Splits) -> list[Extractor]:
        pair = StoredPair(self.name)
        digest, texts = from_first(lambda: (pair.digest, self._texts(pair, splits)))
        record = f"image-text pair, {pair.width} features, weights {digest[:16]}"
        return [
            Extractor(
                PairNetwork(pair), pair.width, f"pair_{digest[:8]}", record, (1, 3), MAX_BATCH, Path(self.cache_dir), texts=texts
            )
        ]

    def _texts(self, pair: Pair, splits: Splits) -> Tensor | None:
        """Those of the captions of the data, [N, D]; None where there are no two to choose from."""
        captions = splits.captions
        if captions is None or len(captions) < 2:
            return None
        key = hashlib.blake2b(repr(list(captions)).encode(errors="surrogateescape"), digest_size=16).hexdigest()
        path = cache.location(Path(self.cache_dir), "captions", VERSION, pair.digest, key)
        known = cache.read(path)
        if known is None:
            known = {"texts": pair.texts(list(captions), torch.device("cpu"))}
            cache.write(path, known)
        return known["texts"]
