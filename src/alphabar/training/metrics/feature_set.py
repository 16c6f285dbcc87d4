"""What is kept of the features of many images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NUM_PARTS = 10


class Sums(NamedTuple):
    """Over the features f of images, in float64: how many [...], sum f [..., D] and sum f f^T [..., D, D]."""

    num: Tensor
    first: Tensor
    second: Tensor

    def of(self, parts: Sequence[int]) -> "Sums":
        """Those of some parts together, where the leading dimension counts parts."""
        chosen = list(parts)
        return Sums(*(value[chosen].sum(0) for value in self))

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and unbiased covariance [D, D]."""
        mean = self.first / self.num
        return mean, (self.second - self.num * torch.outer(mean, mean)) / (self.num - 1)


class ClassSums(NamedTuple):
    """Over the class probabilities p [K] of images, in float64, for each of ten equal parts of the set, in the order of the
    images: how many [10], sum p [10, K] and sum over images and classes of p log p [10]."""

    num: Tensor
    probabilities: Tensor
    negative_entropy: Tensor


class FeatureSet(NamedTuple):
    """Features of a set of N images.

    parts: sums over each of ten equal parts of the set (real images: over one), in the order of the images.
    rows: float32 [M, D] on the CPU, the features of the first M images, M <= N.
    classes: None where the features have no classes.
    """

    parts: Sums
    rows: Tensor
    classes: ClassSums | None

    @property
    def sums(self) -> Sums:
        """Of all N images."""
        return self.parts.of(range(len(self.parts.num)))

    @property
    def num(self) -> int:
        """N"""
        return int(self.parts.num.sum())
