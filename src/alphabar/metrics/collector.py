"""Accumulation of the features of images in batches, on one or many processes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphabar.metrics.extractor import Extracted, Extractor, in_float32
from alphabar.metrics.feature_set import NUM_PARTS, ClassSums, FeatureSet, Sums
from alphabar.metrics.retrieval import candidates, found
from alphabar.metrics.statistics.inception_score import class_sums
from alphabar.runs.distributed import sum_over_ranks_


class Collector:
    """Gathers the features of `num` images, of which each process brings its own share, in memory that does not grow with `num`.

    Sums are float64 and are kept for equal parts of the set, in the order of the images: so they depend neither on the number of
    processes nor on the size of batches, and figures of fewer images can be computed from the same sums.

    num_rows: the number of images, the first ones, whose features themselves are kept.
    num_parts: the number of parts for sums over features; 1 if parts are not needed. Class probabilities always have ten parts.
    """

    def __init__(self, extractor: Extractor, device: torch.device, num: int, num_rows: int = 0, num_parts: int = NUM_PARTS) -> None:
        # Apple's GPUs have no float64, without which the covariance loses its small eigenvalues.
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.extractor = extractor.to(self.device)
        self.num = num
        self.num_parts = num_parts
        size, home = extractor.num_features, {"dtype": torch.float64, "device": self.device}
        self.count = torch.zeros(num_parts, **home)
        self.first = torch.zeros(num_parts, size, **home)
        self.second = torch.zeros(num_parts, size, size, **home)
        self.rows = torch.zeros(min(num_rows, num), size, dtype=torch.float32)
        self.is_there = torch.zeros(len(self.rows), dtype=torch.float32)
        self.hits = torch.zeros(2, **home)
        num_classes = extractor.num_classes
        self.classes = ClassSums(
            torch.zeros(NUM_PARTS, **home), torch.zeros(NUM_PARTS, num_classes or 0, **home), torch.zeros(NUM_PARTS, **home)
        )

    def add(self, indices: Sequence[int] | Tensor, images: Tensor, facts: Mapping[str, Tensor] | None = None) -> None:
        """Adds uint8 images [B, C, H, W], whose places among the `num` images are `indices`.

        facts: the conditions of the images: "label" int64 [B], their classes, or "caption" int64 [B], their captions.
        """
        if len(images) == 0:
            return
        extracted = self.extractor.extract(images.to(self.device))
        features, logits = extracted
        places = torch.as_tensor(indices, dtype=torch.int64)
        parts = ((self.num_parts * (places + 1) - 1) // self.num).to(self.device)
        with in_float32(self.device), torch.no_grad():
            wide = features.double()
            for part in parts.unique().tolist():
                chosen = wide[parts == part]
                self.count[part] += len(chosen)
                self.first[part] += chosen.sum(0)
                self.second[part] += chosen.T @ chosen
            if logits is not None:
                self.classes = ClassSums(*map(torch.add, self.classes, class_sums(logits, places, self.num)))
            right = self._right(places, extracted, facts or {})
            if right is not None:
                self.hits[0] += right.sum().to(self.device)
                self.hits[1] += len(right)
            kept = places < len(self.rows)
            self.rows[places[kept]] = features[kept.to(features.device)].cpu()
            self.is_there[places[kept]] = 1

    def _right(self, places: Tensor, extracted: Extracted, facts: Mapping[str, Tensor]) -> Tensor | None:
        """Returns bool [B], whether the images match their conditions; None if these are not known."""
        labels, texts = self.extractor.labels, self.extractor.texts
        if labels is not None and extracted.logits is not None and "label" in facts:
            return labels.to(self.device)[extracted.logits.argmax(1)] == facts["label"].to(self.device)
        if texts is not None and "caption" in facts:
            options = texts[candidates(places, facts["caption"].cpu(), len(texts))]
            return found(extracted.features.cpu(), options)
        return None

    def collected(self) -> FeatureSet:
        """Returns the features of all processes; all of them call it, once and at the end, and get the same result."""
        parts = Sums(sum_over_ranks_(self.count), sum_over_ranks_(self.first), sum_over_ranks_(self.second))
        classes = None if self.extractor.num_classes is None else ClassSums(*map(sum_over_ranks_, self.classes))
        rows = sum_over_ranks_(self.rows.to(self.device)).cpu()
        is_there = sum_over_ranks_(self.is_there.to(self.device)).cpu() > 0
        hits = sum_over_ranks_(self.hits)
        if not is_there.all():
            rows = rows[is_there]
        return FeatureSet(parts, rows, classes, hits if hits[1] > 0 else None, is_there.nonzero().flatten())
