"""Accumulation of the features of images in batches, on one or many processes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.bits import rounded_to_uint8
from alphabar.metrics.content import content_hash, hash_to_hex
from alphabar.metrics.extractor import Extracted, Extractor, in_float32
from alphabar.metrics.feature_set import NUM_PARTS, ClassSums, FeatureSet, Sums
from alphabar.metrics.health import ImageStatistics
from alphabar.metrics.retrieval import candidates, is_retrieved
from alphabar.metrics.statistics.inception_score import class_sums
from alphabar.runs.processes.distributed import sum_over_ranks, sum_over_ranks_


class Batch(NamedTuple):
    """Images uint8 or uint16 [B, C, H, W] with their places [B] in the set and their conditions, see `Collector.add`."""

    indices: Sequence[int] | Tensor
    images: Tensor
    targets: Mapping[str, Tensor]


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
        self.is_kept = torch.zeros(len(self.rows), dtype=torch.float32)
        self.matches = torch.zeros(2, **home)
        num_classes = extractor.num_classes
        self.classes = ClassSums(
            torch.zeros(NUM_PARTS, **home), torch.zeros(NUM_PARTS, num_classes or 0, **home), torch.zeros(NUM_PARTS, **home)
        )

    def add(self, indices: Sequence[int] | Tensor, images: Tensor, targets: Mapping[str, Tensor] | None = None) -> None:
        """Adds images [B, C, H, W], uint8 or uint16, whose indices among the `num` images are `indices`.

        targets: the conditions of the images: "label" int64 [B], their classes, or "caption" int64 [B], their captions.
        """
        if len(images) == 0:
            return
        extracted = self.extractor.extract(rounded_to_uint8(images).to(self.device))
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
            is_match = self._match(places, extracted, targets or {})
            if is_match is not None:
                self.matches[0] += is_match.sum().to(self.device)
                self.matches[1] += len(is_match)
            kept = places < len(self.rows)
            self.rows[places[kept]] = features[kept.to(features.device)].cpu()
            self.is_kept[places[kept]] = 1

    def _match(self, places: Tensor, extracted: Extracted, targets: Mapping[str, Tensor]) -> Tensor | None:
        """Returns bool [B], whether the images match their conditions; None if these are not known."""
        labels, texts = self.extractor.labels, self.extractor.texts
        if labels is not None and extracted.logits is not None and "label" in targets:
            return labels.to(self.device)[extracted.logits.argmax(1)] == targets["label"].to(self.device)
        if texts is not None and "caption" in targets:
            options = texts[candidates(places, targets["caption"].cpu(), len(texts))]
            return is_retrieved(extracted.features.cpu(), options)
        return None

    def compute(self) -> FeatureSet:
        """Returns the features of all processes; all of them call it, once and at the end, and get the same result."""
        parts = Sums(sum_over_ranks_(self.count), sum_over_ranks_(self.first), sum_over_ranks_(self.second))
        classes = None if self.extractor.num_classes is None else ClassSums(*map(sum_over_ranks_, self.classes))
        rows = sum_over_ranks_(self.rows.to(self.device)).cpu()
        is_kept = sum_over_ranks_(self.is_kept.to(self.device)).cpu() > 0
        matches = sum_over_ranks_(self.matches)
        if not is_kept.all():
            rows = rows[is_kept]
        return FeatureSet(parts, rows, classes, matches if matches[1] > 0 else None, is_kept.nonzero().flatten())


def collect(
    batches: Iterable[Batch], collectors: Sequence[Collector], num_channels: int
) -> tuple[list[FeatureSet], ImageStatistics, str]:
    """Returns the features in each collector, the statistics of the pixels, and a hash of the images, of all processes.

    All of them call it, each with its share of the images, and get the same result.
    """
    device = collectors[0].device
    pixels = ImageStatistics.empty(num_channels, device)
    content = torch.zeros((), dtype=torch.int64, device=device)
    for batch in batches:
        pixels += ImageStatistics.of(rounded_to_uint8(batch.images))
        content += content_hash(batch.images)
        for collector in collectors:
            collector.add(*batch)
    features = [collector.compute() for collector in collectors]
    return features, pixels.of_all_processes(), hash_to_hex(int(sum_over_ranks(content)))
