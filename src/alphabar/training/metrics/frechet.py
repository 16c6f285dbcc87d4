"""The Frechet distance between the features of real and of generated images."""

import logging
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from alphabar.training.metrics.extractor import Extractor, in_float32
from alphabar.training.ranks import rank_and_size

log = logging.getLogger(__name__)


class Sums(NamedTuple):
    """Over the features f of a set of images: how many, sum f [D] and sum f f^T [D, D], in float64."""

    num: Tensor
    first: Tensor
    second: Tensor

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and unbiased covariance [D, D]."""
        mean = self.first / self.num
        return mean, (self.second - self.num * torch.outer(mean, mean)) / (self.num - 1)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two normal distributions; Dowson & Landau 1982.

    With S1 = R R^T the eigenvalues of S1 S2 are those of the symmetric R^T S2 R, which come five times sooner than those of
    S1 S2 itself and are never complex, also where a covariance is singular.
    """
    mean1, cov1, mean2, cov2 = (value.double() for value in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp_min(0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ cov2 @ root).clamp_min(0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


class FrechetDistance:
    """FID of images that come in batches, on one or many processes, each of which brings its own share.

    torchmetrics keeps the sums and adds them up over processes. This is no nn.Module, so that the extractor is neither averaged
    nor saved nor cast with the model that it judges. Real images outlive `reset`.

    num_real, num_generated: images that the last `compute` saw, of all processes.
    """

    def __init__(self, extractor: Extractor, device: torch.device) -> None:
        # Apple's GPUs have no float64, without which the covariance loses its small eigenvalues.
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.extractor = extractor
        self.num_real = 0
        self.num_generated = 0
        with in_float32(self.device):
            metric = FrechetInceptionDistance(feature=extractor, reset_real_features=False, normalize=False)
            self.metric = metric.to(self.device)

    def update_real(self, images: Tensor) -> None:
        """Adds uint8 [B, C, H, W]."""
        self._update(images, real=True)

    def update_generated(self, images: Tensor) -> None:
        """Adds uint8 [B, C, H, W], free of NaN and infinity when they were floats."""
        self._update(images, real=False)

    def _update(self, images: Tensor, real: bool) -> None:
        if len(images):
            with in_float32(self.device):
                self.metric.update(images.to(self.device), real=real)

    def sums(self) -> tuple[Sums, Sums]:
        """(Real, generated), of all processes; all of them call it."""
        metric = self.metric
        with in_float32(self.device), metric.sync_context():
            real = Sums(metric.real_features_num_samples, metric.real_features_sum, metric.real_features_cov_sum)
            fake = Sums(metric.fake_features_num_samples, metric.fake_features_sum, metric.fake_features_cov_sum)
            return Sums(*map(torch.clone, real)), Sums(*map(torch.clone, fake))

    def set_real(self, sums: Sums) -> None:
        """Puts earlier sums of all processes in the place of real images; only the first process counts them."""
        share = sums if rank_and_size()[0] == 0 else Sums(*map(torch.zeros_like, sums))
        self.metric.real_features_num_samples = share.num.to(self.device)
        self.metric.real_features_sum = share.first.to(self.device)
        self.metric.real_features_cov_sum = share.second.to(self.device)

    def compute(self) -> float:
        """The distance; all processes call it and get the same. NaN, and a line that says why, where there is none."""
        real, generated = self.sums()
        self.num_real, self.num_generated = int(real.num), int(generated.num)
        reason = self._obstacle(real, generated)
        if reason is None:
            return frechet_distance(*real.gaussian(), *generated.gaussian())
        if rank_and_size()[0] == 0:
            log.warning("no FID: %s", reason)
        return math.nan

    def _obstacle(self, real: Sums, generated: Sums) -> str | None:
        if min(self.num_real, self.num_generated) < 2:
            return f"it takes two images of each kind, got {self.num_real} real and {self.num_generated} generated"
        if not all(bool(sums.second.isfinite().all()) for sums in (real, generated)):
            return f"the {self.extractor.name} features of some images are NaN or infinite"
        return None

    def reset(self) -> None:
        """Forgets the generated images."""
        with in_float32(self.device):
            self.metric.reset()
