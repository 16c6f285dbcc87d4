"""Frozen networks that turn images into features."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Extracted(NamedTuple):
    """float32 features [B, D], and class logits [B, K] where there are classes."""

    features: Tensor
    logits: Tensor | None


class Extractor(nn.Module):
    """uint8 [B, C, H, W] -> float32 [B, num_features], the same whatever the precision, the mode or the gradients around it.

    network: the same map, of one batch; frozen here.
    name: stands in the names of figures; two extractors of one name give figures that can be compared if the data is the same.
    record: one line that says exactly what it is: equal records mean equal features.
    channels: the numbers of channels C that the network takes.
    max_batch: how many images the network gets at a time.
    cache_dir: where what is computed with the features may be kept.
    head: features [B, num_features] -> class logits [B, K]; frozen here. None: there are no classes.
    labels: which of the data's classes each logit stands for, int64 [K]; None where they are others.
    texts: the vectors of the data's captions, which those of images can be compared with, float32 [N, num_features] on the CPU;
        None where there are none.

    num_classes: K, or None.

    Raises ValueError for anything but uint8 images of such channels: floats would be misread without a word.
    """

    def __init__(
        self,
        network: nn.Module,
        num_features: int,
        name: str,
        record: str,
        channels: tuple[int, ...],
        max_batch: int,
        cache_dir: Path,
        head: nn.Module | None = None,
        labels: Tensor | None = None,
        texts: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.head = None if head is None else head.requires_grad_(False).eval()
        self.num_features = num_features
        self.name = name
        self.record = record
        self.channels = channels
        self.max_batch = max_batch
        self.cache_dir = cache_dir
        self.labels = labels
        self.texts = texts
        blank = torch.zeros(1, num_features, dtype=torch.float32)
        self.num_classes = None if self.head is None else self._logits(self.head, blank).shape[1]

    @property
    def has_classes(self) -> bool:
        """Whether there are logits."""
        return self.head is not None

    def extract(self, images: Tensor) -> Extracted:
        """The features and, where there are classes, the logits of the same pass."""
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
    """Inside, neither autocast, nor a low-precision default dtype, nor inference mode of the surroundings has an effect."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),  # which leaves 10 bits of what convolutions multiply
        ):
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Inside, the CPU's global stream starts from `seed`; outside, nothing has happened to it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs, for good
        yield
