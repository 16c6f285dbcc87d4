"""Measuring a model: its images, against the real ones."""

from collections.abc import Iterable

import torch

from alphabar.errors import UserError
from alphabar.training.generate import Generated
from alphabar.training.metrics import Extractor, Features, Splits
from alphabar.training.metrics.frechet import FrechetDistance
from alphabar.training.ranks import total


def extractor_of(features: Features, splits: Splits) -> Extractor:
    """What the features are extracted with. Raises UserError, with the name of the group, if these data do not allow it."""
    try:
        return features.extractor(splits)
    except UserError as error:
        raise UserError(f"features: {error}") from error


def measure(distance: FrechetDistance, share: Iterable[Generated]) -> tuple[float, int]:
    """(The distance of the images of all processes, how many were left out for NaN or infinity); all processes call it."""
    distance.reset()
    num_nonfinite = torch.zeros((), device=distance.device)
    for part in share:
        num_nonfinite += (~part.finite).sum().to(distance.device)
        distance.update_generated(part.images[part.finite])
    return distance.compute(), int(total(num_nonfinite))
