"""The accumulated features of many images."""

from typing import NamedTuple

import torch
from torch import Tensor

NUM_PARTS = 10


class Sums(NamedTuple):
    """Sums over the features f of images, in float64: their number [...], sum f [..., D] and sum f f^T [..., D, D]."""

    num: Tensor
    first: Tensor
    second: Tensor

    def of(self, parts: range) -> "Sums":
        """Returns the sums of neighbouring parts together, where the leading dimension counts parts."""
        return Sums(*(value[parts.start : parts.stop].sum(0) for value in self))

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Returns the mean [D] and the unbiased covariance [D, D]."""
        mean = self.first / self.num
        return mean, (self.second - self.num * torch.outer(mean, mean)) / (self.num - 1)


class ClassSums(NamedTuple):
    """Sums over the class probabilities p [K] of images, in float64, for each of ten equal parts of the set, in the order of the
    images: their number [10], sum p [10, K] and sum over images and classes of p log p [10]."""

    num: Tensor
    probabilities: Tensor
    negative_entropy: Tensor


class FeatureSet(NamedTuple):
    """Features of a set of N images.

    parts: sums over each of ten equal parts of the set (real images: over one), in the order of the images.
    rows: float32 [M, D] on the CPU, the features of the first images. row_places: int64 [M], their places; None: the first M.
    classes: None if the features have no classes.
    matches: the number of images that match their condition (a classifier of the data's classes assigns them to its class, or they
        are nearer to its caption than to others), and the number of images tested, float64 [2]; None without such a test.
    """

    parts: Sums
    rows: Tensor
    classes: ClassSums | None
    matches: Tensor | None = None
    row_places: Tensor | None = None

    @property
    def places(self) -> Tensor:
        """The place of each row's image in the set, int64 [M]."""
        return torch.arange(len(self.rows)) if self.row_places is None else self.row_places

    @property
    def sums(self) -> Sums:
        """The sums over all N images."""
        return self.parts.of(range(len(self.parts.num)))

    @property
    def match_rate(self) -> float | None:
        """The share of the tested images that match their condition; None without such a test."""
        return None if self.matches is None else float(self.matches[0] / self.matches[1])

    @property
    def num(self) -> int:
        """The number N of images."""
        return int(self.parts.num.sum())
