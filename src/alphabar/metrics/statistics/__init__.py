"""Statistics that compute figures from the features of generated and of real images, each in a file of its own."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from alphabar.data import Shape
from alphabar.errors import UserError
from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet

MAX_BATCH, MAX_REFERENCE = 250, 10_000  # images in a batch, and the number of training images, of a `PerImageMetric`


class Statistic(ABC):
    """A statistic computes one figure or a few related ones; it is stateless, so that it depends on its settings alone."""

    @abstractmethod
    def applies(self, extractor: Extractor) -> bool:
        """Returns whether the statistic applies to features of this kind."""

    @abstractmethod
    def min_images(self, num_features: int) -> int:
        """Returns the minimal numbers of generated and of real images."""

    @abstractmethod
    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        """Returns the figures by name, such as {"kid": 0.001}; NaN where features are NaN or infinite."""

    def own_extractor(self, name: str, shape: Shape) -> Extractor | None:
        """Returns the extractor of features that only this statistic uses, or None if it is computed from the group `features`.

        name: the name of the statistic, and of its features in the names of figures. shape: the shape of the images.
        """
        return None


class PerImageMetric(Statistic, ABC):
    """A metric that is computed from numbers measured in each image by itself, such as its sharpness.

    The numbers are its features, of all generated images and of the first 10,000 training images.
    """

    @abstractmethod
    def measure(self, images: Tensor) -> Tensor:
        """Returns the numbers [B] or [B, D] of uint8 images [B, C, H, W], each depending on its own image alone.

        Anything that `torch.as_tensor` takes is allowed, such as an array of numpy. The images may be on a GPU.
        """

    @abstractmethod
    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        """Returns the figures by name, from `generated.rows` [N, D] and `real.rows` [M, D], of 10,000 images each at most."""

    def applies(self, extractor: Extractor) -> bool:
        return isinstance(extractor.network, _Measure) and extractor.network.metric is self

    def min_images(self, num_features: int) -> int:
        return 1

    def own_extractor(self, name: str, shape: Shape) -> Extractor:
        """Returns the extractor of the numbers. Raises UserError unless two images have [2] or [2, D] of them."""
        two = torch.zeros(2, *shape, dtype=torch.uint8)
        found = _numbers_of(self, two)
        if found.ndim not in (1, 2) or len(found) != len(two) or 0 in found.shape:
            need = f"need the numbers [B] or [B, D] of images [B, C, H, W] from {type(self).__name__}.measure"
            raise UserError(f"statistics.{name}: {need}, got {list(found.shape)} for {list(two.shape)}")
        num = found.reshape(2, -1).shape[1]
        description = f"numbers of {type(self).__module__}.{type(self).__qualname__}"
        channels = (shape.channels,)
        return Extractor(_Measure(self), num, name, description, channels, MAX_BATCH, None, max_reference=MAX_REFERENCE)


class _Measure(nn.Module):
    """The network of an extractor whose features, float32 [B, D], are the numbers of a metric."""

    def __init__(self, metric: PerImageMetric) -> None:
        super().__init__()
        self.metric = metric

    def forward(self, images: Tensor) -> Tensor:
        return _numbers_of(self.metric, images).float().reshape(len(images), -1)


def _numbers_of(metric: PerImageMetric, images: Tensor) -> Tensor:
    return torch.as_tensor(metric.measure(images), device=images.device)
