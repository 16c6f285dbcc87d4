"""Kernel Inception Distance."""

import math
from dataclasses import dataclass

from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.statistics import Statistic

SEED = 2020  # the default of torch-fidelity
MIN_IMAGES = 2


@dataclass(frozen=True)
class KID(Statistic):
    """Unbiased squared MMD with the kernel (x . y / D + 1)^3: mean and deviation over random subsets; Binkowski et al. 2018.

    torch-fidelity computes it, in float64, so that figures near zero are not dominated by rounding.

    subset_size: the number of images of each kind in a subset; all of them if there are fewer.
    max_images: the number of images of each kind, the first ones, from which subsets are drawn.

    Raises ValueError unless subsets >= 1 and 2 <= subset_size <= max_images.
    """

    subsets: int = 100
    subset_size: int = 1000
    max_images: int = 5000

    def __post_init__(self) -> None:
        if self.subsets < 1:
            raise ValueError(f"need subsets >= 1, got subsets={self.subsets}")
        if not 2 <= self.subset_size <= self.max_images:
            got = f"subset_size={self.subset_size}, max_images={self.max_images}"
            raise ValueError(f"need 2 <= subset_size <= max_images, got {got}")

    def applies(self, extractor: Extractor) -> bool:
        return True

    def min_images(self, num_features: int) -> int:
        return MIN_IMAGES

    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        ours, theirs = generated.rows[: self.max_images].double(), real.rows[: self.max_images].double()
        if not all(bool(each.isfinite().all()) for each in (ours, theirs)):
            return {"kid": math.nan, "kid_std": math.nan}
        found = kid_features_to_metric(
            ours,
            theirs,
            kid_subsets=self.subsets,
            kid_subset_size=min(self.subset_size, len(ours), len(theirs)),
            kid_kernel="poly",
            kid_kernel_poly_degree=3,
            kid_kernel_poly_gamma=None,
            kid_kernel_poly_coef0=1,
            rng_seed=SEED,
            verbose=False,
        )
        return {"kid": found[KEY_METRIC_KID_MEAN], "kid_std": found[KEY_METRIC_KID_STD]}
