"""Features of a small classifier of the data's own classes: a measure that needs no download."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.errors import UserError
from alphabar.training.data import ImageSet
from alphabar.training.metrics import Extractor, Features, Splits, cache
from alphabar.training.metrics.extractor import in_float32, own_randomness
from alphabar.training.metrics.ranks import from_first

log = logging.getLogger(__name__)
VERSION = 1  # goes up with every change below that moves a feature
SEED = 0  # not the run's: figures of different runs are compared
NUM_FEATURES = 64
MAX_SIDE = 32
NUM_STEPS = 500
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
MAX_TESTED = 2000
CHUNK = 500


class FeatureNetwork(nn.Module):
    """uint8 [B, C, H, W] -> float32 [B, 64]: four convolutions and the mean over positions.

    The buffer `scale` gives the features of the training images a mean variance of one, so that a distance means about the same
    for every data set.
    """

    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *block(channels, 32, stride=1), *block(32, 64, stride=2), *block(64, 64, stride=1), *block(64, NUM_FEATURES, stride=2)
        )
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(shrink(images).float() / 127.5 - 1).mean((2, 3)) * self.scale


def block(channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    """3x3 convolution, normalisation, ReLU."""
    return nn.Conv2d(channels, out_channels, 3, stride, padding=1), nn.GroupNorm(8, out_channels), nn.ReLU()


def shrink(images: Tensor) -> Tensor:
    """uint8 images, averaged over areas down to at most 32 x 32."""
    height, width = images.shape[2:]
    if max(height, width) <= MAX_SIDE:
        return images
    return F.adaptive_avg_pool2d(images.float(), (min(height, MAX_SIDE), min(width, MAX_SIDE))).round().to(torch.uint8)


@dataclass(frozen=True)
class ClassifierFeatures(Features):
    """Trains the network on the CPU with fixed seeds, once for each data set, and keeps it in `cache_dir`.

    max_images: of the training images, the first ones.

    Raises ValueError unless max_images >= 2.
    """

    cache_dir: str
    max_images: int

    def __post_init__(self) -> None:
        if self.max_images < 2:
            raise ValueError(f"need max_images >= 2, got max_images={self.max_images}")

    def extractor(self, splits: Splits) -> Extractor:
        made = from_first(lambda: self._cached(splits))  # on the first process alone: two trainings may differ in the last bit
        log.info("classifier features: %s", made["quality"])
        channels = splits.train.shape.channels
        with in_float32(torch.device("cpu")), own_randomness(SEED):
            network = FeatureNetwork(channels)
        network.load_state_dict(made["weights"])
        record = f"classifier of {NUM_FEATURES} features, weights {digest(made['weights'])}: {made['quality']}"
        return Extractor(network, NUM_FEATURES, "classifier", record, (channels,), CHUNK, Path(self.cache_dir))

    def _cached(self, splits: Splits) -> dict[str, Any]:
        labels = splits.train.labels
        if labels is None or len(labels.unique()) < 2:
            lack = "the training images have no classes" if labels is None else "the training images are all of one class"
            raise UserError(f"{lack}, which features=classifier learns from; features=inception does without (none: no FID)")
        path = cache.location(
            Path(self.cache_dir), "classifier", VERSION, splits.fingerprint, splits.train.shape, self.max_images
        )
        made = cache.read(path)
        if made is None:
            made = train(splits, self.max_images)
            cache.write(path, made)
        return made


def train(splits: Splits, max_images: int) -> dict[str, Any]:
    """{"weights": the network's, "quality": a line on how well it tells the classes apart}."""
    images, labels = load(splits.train, max_images)
    log.info("classifier features: training on %d images, once for this data", len(images))
    classes, targets = labels.unique(return_inverse=True)
    with in_float32(torch.device("cpu")), torch.enable_grad(), own_randomness(SEED):
        network = FeatureNetwork(splits.train.shape.channels)
        head = nn.Linear(NUM_FEATURES, len(classes))
        fit(nn.Sequential(network, head), images, targets)
        with torch.no_grad():
            head.weight /= rescale(network, images)  # the classifier stays what it is
            quality = judge(nn.Sequential(network, head), classes, splits.held_out)
    return {"weights": network.state_dict(), "quality": f"{quality}, trained on {len(images)} images"}


def load(images: ImageSet, max_num: int) -> tuple[Tensor, Tensor]:
    """The first images, small, and their labels."""
    parts = [images.batch(indices) for indices in torch.arange(min(max_num, len(images))).split(CHUNK)]
    return torch.cat([shrink(part["image"]) for part in parts]), torch.cat([part["label"] for part in parts])


def fit(model: nn.Module, images: Tensor, targets: Tensor) -> None:
    """AdamW on the cross-entropy, with a learning rate that falls to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    for step in range(NUM_STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / NUM_STEPS)
        picked = torch.randint(len(images), (BATCH_SIZE,))
        loss = F.cross_entropy(model(images[picked]), targets[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def rescale(network: FeatureNetwork, images: Tensor) -> Tensor:
    """Gives the features of `images` a mean variance of one, and the factor by which they grew."""
    features = torch.cat([network(part) for part in images.split(CHUNK)])
    factor = features.var(0).mean().clamp_min(1e-12).rsqrt()
    network.scale.copy_(factor)
    return factor


def judge(model: nn.Module, classes: Tensor, held_out: ImageSet) -> str:
    """How many held-out images it puts into their class."""
    if len(held_out) == 0 or held_out.labels is None:
        return "no held-out images to test it on"
    images, labels = load(held_out, MAX_TESTED)
    found = torch.cat([classes[model(part).argmax(1)] for part in images.split(CHUNK)])
    return f"{(found == labels).double().mean():.1%} on {len(labels)} held-out images"


def digest(weights: dict[str, Tensor]) -> str:
    """A hash of the values."""
    content = b"".join(value.contiguous().numpy().tobytes() for value in weights.values())
    return hashlib.blake2b(content, digest_size=8).hexdigest()
