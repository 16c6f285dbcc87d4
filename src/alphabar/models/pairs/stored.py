"""A pair by its name."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from alphabar.models.hub import CONFIG
from alphabar.models.pairs import Pair
from alphabar.models.pairs.clip import CLIPPair
from alphabar.models.pairs.small import KIND, SmallPair


class StoredPair(Pair):
    """A folder that experiment=contrastive wrote, or any CLIP: what kind it is stands in its config.json.

    name: RUN/pair, a folder as save_pretrained writes it, or a model of the hub.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return self._pair.width

    @property
    def digest(self) -> str:
        return self._pair.digest

    def images(self, images: Tensor) -> Tensor:
        return self._pair.images(images)

    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        return self._pair.texts(texts, device)

    @cached_property
    def _pair(self) -> Pair:
        try:
            content = json.loads((Path(self.name).expanduser() / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}  # of the hub, or damaged, which CLIPPair says
        return SmallPair(self.name) if isinstance(content, dict) and content.get("model_type") == KIND else CLIPPair(self.name)


def must_be_the_same(pair: Pair, digest: str | None) -> None:
    """Raises ValueError if the pair is another than that of `digest`, with which something was trained; None: with none yet."""
    if digest is not None and pair.digest != digest:
        raise ValueError(f"this was trained with another image-text pair, of digest {digest[:12]}, not {pair.digest[:12]}")
