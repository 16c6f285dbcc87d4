"""The retrieval accuracy of text-conditional generation."""

from dataclasses import dataclass

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import FeatureSet
from alphabar.metrics.statistics import Statistic


@dataclass(frozen=True)
class Retrieval(Statistic):
    """The share of images whose vector is nearest, of ten captions, to the one the model was conditioned on; chance is 0.1
    (after the R-precision of Xu et al. 2018, AttnGAN, sec. 4).

    The other nine are drawn from all captions of the data, the same for image i in every run (`metrics.retrieval.candidates`). The
    vectors are those of features=contrastive; the floor is what held-out images reach, each with its own caption.
    """

    def applies(self, extractor: Extractor) -> bool:
        return extractor.texts is not None

    def min_images(self, num_features: int) -> int:
        return 1

    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        """Returns the share; empty for images without a caption."""
        rate = generated.match_rate
        return {} if rate is None else {"retrieval": rate}
