"""Images and features so simple that their figures are known."""

from pathlib import Path

import torch
from torch import Tensor, nn

from alphabar.data.image_sets.resident import ResidentImages
from alphabar.metrics import Splits
from alphabar.metrics.collector import Collector
from alphabar.metrics.extractor import Extractor
from alphabar.metrics.statistics.frechet import Frechet

CPU = torch.device("cpu")


class Witness(nn.Module):
    """Pixels as features; keeps the images that it was given."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images.flatten(1).float()


def pixels_as_features(num_features, cache_dir=Path("/nowhere"), network=None, description="pixels", channels=(1,)):
    return Extractor(network or Witness(), num_features, "pixels", description, channels, 100, cache_dir)


def gaussian_images(num, num_pixels, seed, mean=100.0, std=10.0):
    values = mean + std * torch.randn(num, 1, num_pixels, 1, generator=torch.Generator().manual_seed(seed))
    return values.round().clamp(0, 255).to(torch.uint8)


def collected(images, extractor, num_rows=0):
    collector = Collector(extractor, CPU, len(images), num_rows)
    collector.add(range(len(images)), images)
    return collector.compute()


def fid(real, generated, extractor=None):
    extractor = extractor or pixels_as_features(real[0].numel())
    return Frechet().compute(collected(generated, extractor), collected(real, extractor))["fid"]


def splits_of(train, held_out=None, fingerprint="data"):
    empty = torch.empty(0, *train.shape[1:], dtype=torch.uint8)
    return Splits(ResidentImages(train, None), ResidentImages(empty if held_out is None else held_out, None), fingerprint)
