"""A CLIP by its name, of whichever kind its config.json says."""

import json
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from alphabar.files.paths import user_path
from alphabar.models.clip import CLIP
from alphabar.models.clip.pretrained import PretrainedCLIP
from alphabar.models.clip.small import KINDS, SmallCLIP
from alphabar.models.hub import CONFIG


class StoredCLIP(CLIP):
    """A folder that experiment=contrastive wrote, or any published CLIP.

    name: RUN/clip, a folder as save_pretrained writes it, or a model of the hub.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return self._clip.width

    @property
    def digest(self) -> str:
        return self._clip.digest

    def images(self, images: Tensor) -> Tensor:
        return self._clip.images(images)

    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        return self._clip.texts(texts, device)

    @cached_property
    def _clip(self) -> CLIP:
        try:
            content = json.loads((user_path(self.name) / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}  # a name of the hub, or a damaged file, which PretrainedCLIP reports
        is_small = isinstance(content, dict) and content.get("model_type") in KINDS
        return SmallCLIP(self.name) if is_small else PretrainedCLIP(self.name)
