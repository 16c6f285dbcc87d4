"""The accumulated features of many images."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

NUM_PARTS = 10


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution of features: its mean [D] and its covariance [D, D], float64."""

    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """The lower triangular L [D, D] with L L^T = covariance, computed once.

        It is the Cholesky factor. Where the covariance is singular, as that of no more images than features, and rounding leaves it
        with negative eigenvalues, these are zero: with V diag(w) V^T = covariance, L^T is R of the QR decomposition of
        diag(w^(1/2)) V^T. That takes ten times as long.
        """
        root, failed = torch.linalg.cholesky_ex(self.covariance)
        if not failed:
            return root
        values, vectors = torch.linalg.eigh(self.covariance)
        return torch.linalg.qr((vectors * values.clamp_min(0).sqrt()).mT, mode="r").R.mT.contiguous()


class Sums(NamedTuple):
    """Sums over the features f of images, in float64: their number [...], sum f [..., D] and sum f f^T [..., D, D]."""

    num: Tensor
    first: Tensor
    second: Tensor

    def of(self, parts: range) -> "Sums":
        """Returns the sums of neighbouring parts together, where the leading dimension counts parts."""
        return Sums(*(value[parts.start : parts.stop].sum(0) for value in self))

    def gaussian(self) -> Gaussian:
        """Returns the mean and the unbiased covariance."""
        mean = self.first / self.num
        return Gaussian(mean, (self.second - self.num * torch.outer(mean, mean)) / (self.num - 1))


class ClassSums(NamedTuple):
    """Sums over the class probabilities p [K] of images, in float64, for each of ten equal parts of the set, in the order of the
    images: their number [10], sum p [10, K] and sum over images and classes of p log p [10]."""

    num: Tensor
    probabilities: Tensor
    negative_entropy: Tensor


@dataclass(frozen=True, eq=False)
class FeatureSet:
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

    @cached_property
    def gaussian(self) -> Gaussian:
        """The normal distribution of all N images. It stays in memory with its root, for the next set that is compared with it."""
        return self.sums.gaussian()

    @property
    def match_rate(self) -> float | None:
        """The share of the tested images that match their condition; None without such a test."""
        return None if self.matches is None else float(self.matches[0] / self.matches[1])

    @property
    def num(self) -> int:
        """The number N of images."""
        return int(self.parts.num.sum())
