"""Inception Score."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.metrics.extractor import Extractor
from alphabar.metrics.feature_set import NUM_PARTS, ClassSums, FeatureSet
from alphabar.metrics.statistics import Statistic


@dataclass(frozen=True)
class InceptionScore(Statistic):
    """The score exp(mean KL(p(class | image), p(class))), mean and deviation over ten parts of the set (Salimans et al. 2016).

    It depends on the generated images alone.
    """

    def applies(self, extractor: Extractor) -> bool:
        return extractor.has_classes

    def min_images(self, num_features: int) -> int:
        return NUM_PARTS

    def compute(self, generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
        """Returns the score and its deviation over the parts that have images. Raises ValueError if there are no classes."""
        if generated.classes is None:
            raise ValueError("need class probabilities, got none")
        there = generated.classes.num > 0
        sums = ClassSums(*(value[there] for value in generated.classes))
        num = sums.num[:, None]
        cross = torch.special.xlogy(sums.probabilities, sums.probabilities / num).sum(1)
        scores = ((sums.negative_entropy - cross) / sums.num).exp()
        return {"inception_score": float(scores.mean()), "inception_score_std": float(scores.std(correction=0))}


def class_sums(logits: Tensor, indices: Tensor, num: int) -> ClassSums:
    """Returns the contribution of a batch to the sums of a set of `num` images; additive over batches.

    Part k starts at image floor(k num / 10), as torch-fidelity splits a set that it does not shuffle.

    logits: [B, K]. indices: int64 [B], the places of these images in the set, 0 <= index < num.
    """
    parts = ((NUM_PARTS * (indices + 1) - 1) // num).to(logits.device)
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    zeros = torch.zeros(NUM_PARTS, dtype=torch.float64, device=logits.device)
    return ClassSums(
        zeros.index_add(0, parts, torch.ones_like(p[:, 0])),
        p.new_zeros(NUM_PARTS, p.shape[1]).index_add(0, parts, p),
        zeros.index_add(0, parts, (p * log_p).sum(1)),
    )
