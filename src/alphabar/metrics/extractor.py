"""Frozen networks that turn images into features."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# The settings of what torch may compute in TF32, which keeps only 10 bits of the factors: products of matrices and convolutions.
TF32_SETTINGS: tuple[Any, ...] = (
    *(torch.backends.cuda.matmul, torch.backends.mkldnn.matmul),  # type: ignore[attr-defined]
    *(torch.backends.cudnn.conv, torch.backends.cudnn.rnn),  # type: ignore[attr-defined]
)


class Extracted(NamedTuple):
    """Features float32 [B, D], and class logits [B, K] if there are classes."""

    features: Tensor
    logits: Tensor | None


class Extractor(nn.Module):
    """Maps uint8 [B, C, H, W] to float32 [B, num_features], independently of the surrounding precision, mode and gradients.

    network: the same map, of one batch; frozen here.
    name: appears in the names of figures; figures from extractors of one name can be compared if the data are the same.
    description: one line that identifies the extractor: equal descriptions mean equal features.
    channels: the numbers of channels C that the network takes.
    max_batch: the maximal number of images for one call of the network.
    cache_dir: the folder in which results computed with the features may be cached; None: they are computed each time.
    head: maps features [B, num_features] to class logits [B, K]; frozen here. None: there are no classes.
    labels: the data's class of each logit, int64 [K]; None if the classes are others.
    texts: the embeddings of the data's captions in the space of the features, float32 [N, num_features] on the CPU; None if there
        are none.
    max_reference: the number of training images with which others are compared, at most; None: all.

    num_classes: K, or None.

    Raises ValueError for anything but uint8 images of such channels, since floats would be misread silently.
    """

    def __init__(
        self,
        network: nn.Module,
        num_features: int,
        name: str,
        description: str,
        channels: tuple[int, ...],
        max_batch: int,
        cache_dir: Path | None,
        head: nn.Module | None = None,
        labels: Tensor | None = None,
        texts: Tensor | None = None,
        max_reference: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.head = None if head is None else head.requires_grad_(False).eval()
        self.num_features = num_features
        self.name = name
        self.description = description
        self.channels = channels
        self.max_batch = max_batch
        self.cache_dir = cache_dir
        self.labels = labels
        self.texts = texts
        self.max_reference = max_reference
        blank = torch.zeros(1, num_features, dtype=torch.float32)
        self.num_classes = None if self.head is None else self._logits(self.head, blank).shape[1]

    @property
    def has_classes(self) -> bool:
        """Whether the network has class logits."""
        return self.head is not None

    def extract(self, images: Tensor) -> Extracted:
        """Returns the features and, if there are classes, the logits of the same forward pass."""
        features = self(images)
        return Extracted(features, None if self.head is None else self._logits(self.head, features))

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in self.channels:
            takes = " or ".join(map(str, self.channels))
            got = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"need torch.uint8 images [B, C, H, W] with C = {takes} for {self.name} features, got {got}")
        self.network.eval()
        with in_float32(images.device), torch.no_grad():
            return torch.cat([self.network(part) for part in images.split(self.max_batch)])

    @staticmethod
    def _logits(head: nn.Module, features: Tensor) -> Tensor:
        head.eval()
        with in_float32(features.device), torch.no_grad():
            return head(features)


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Disables, inside the context, autocast, a low-precision default dtype, TF32 and inference mode."""
    default, precisions = torch.get_default_dtype(), [each.fp32_precision for each in TF32_SETTINGS]
    torch.set_default_dtype(torch.float32)
    try:
        for each in TF32_SETTINGS:
            each.fp32_precision = "ieee"
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)
        for each, precision in zip(TF32_SETTINGS, precisions, strict=True):
            each.fp32_precision = precision


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seeds the CPU's global random stream with `seed` inside the context, and restores its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs permanently
        yield
