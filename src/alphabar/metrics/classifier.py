"""Features of a small classifier of the data's own classes: a measure that needs no download."""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.data import ImageSet, Shape
from alphabar.errors import UserError
from alphabar.files.cache import DiskCache
from alphabar.files.paths import user_path
from alphabar.metrics import Extractor, Features, Splits
from alphabar.metrics.extractor import in_float32, own_randomness
from alphabar.runs.distributed import from_first

log = logging.getLogger(__name__)
VERSION = 2  # increased with every change below that changes a feature or a logit
SEED = 0  # independent of the run's seed, so that figures of different runs can be compared
HALF = 32
SMALL = 16  # the largest side, in pixels, at which the first layer keeps the resolution
MIN_STEPS = 400
MIN_EPOCHS = 4
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
MAX_TESTED = 2000
CHUNK = 500


class FeatureNetwork(nn.Module):
    """Maps uint8 [B, C, H, W] to float32 [B, 64]: the means over positions of the last two layers, 32 channels each.

    The last layer tells classes apart and hardly sees anything else; the one before it also sees blur, noise and colour.
    max_side: images are averaged over areas down to at most so many pixels per side.
    The buffer `scale` gives each half a mean variance of one on the training images, so that both count, and a distance is of
    about the same size for every data set.
    """

    scale: Tensor

    def __init__(self, shape: Shape, max_side: int) -> None:
        super().__init__()
        self.max_side = max_side
        stride = 1 if min(shape.resolution, max_side) <= SMALL else 2
        self.early = nn.Sequential(*conv_block(shape.channels, 32, stride), *conv_block(32, 64, 2), *conv_block(64, HALF, 1))
        self.late = nn.Sequential(*conv_block(HALF, HALF, 2))
        self.register_buffer("scale", torch.ones(2 * HALF))

    def forward(self, images: Tensor) -> Tensor:
        early = self.early(downscale(images, self.max_side).float() / 127.5 - 1)
        return torch.cat([early.mean((2, 3)), self.late(early).mean((2, 3))], 1) * self.scale


def conv_block(channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    """Returns a block of 3x3 convolution, normalisation and ReLU."""
    return nn.Conv2d(channels, out_channels, 3, stride, padding=1), nn.GroupNorm(8, out_channels), nn.ReLU()


def downscale(images: Tensor, max_side: int) -> Tensor:
    """Returns uint8 images, averaged over areas down to at most max_side x max_side."""
    height, width = images.shape[2:]
    if max(height, width) <= max_side:
        return images
    return F.adaptive_avg_pool2d(images.float(), (min(height, max_side), min(width, max_side))).round().to(torch.uint8)


@dataclass(frozen=True)
class ClassifierFeatures(Features):
    """Trains the network on the CPU with fixed seeds, once for each data set, and keeps it in `cache_dir`.

    max_images: the number of training images used. max_side: pixels per side that it sees, at most; more see finer detail, and
        take longer to train.

    Raises ValueError unless max_images >= 2 and max_side >= 8.
    """

    cache_dir: str
    max_images: int
    max_side: int = 32

    def __post_init__(self) -> None:
        if self.max_images < 2 or self.max_side < 8:
            raise ValueError(f"need max_images >= 2 and max_side >= 8, got max_images={self.max_images}, max_side={self.max_side}")

    def extractors(self, splits: Splits) -> list[Extractor]:
        # Trained on the first process alone, since two trainings may differ in the last bit.
        trained = from_first(lambda: self._trained(splits))
        shape = splits.train.shape
        with in_float32(torch.device("cpu")), own_randomness(SEED):
            network, head = FeatureNetwork(shape, self.max_side), LateHead(len(trained["head"]["linear.bias"]))
        network.load_state_dict(trained["weights"])
        head.load_state_dict(trained["head"])
        quality, weights = trained["quality"], hash_of_weights(trained["weights"] | trained["head"])
        description = (
            f"classifier of {2 * HALF} features, {quality}, weights {weights}, areas down to {self.max_side} pixels, float32"
        )
        labels = None if splits.train.labels is None else splits.train.labels[: self.max_images].unique()
        name = "classifier" if self.max_side == type(self).max_side else f"classifier{self.max_side}"
        return [Extractor(network, 2 * HALF, name, description, (shape.channels,), CHUNK, user_path(self.cache_dir), head, labels)]

    def _trained(self, splits: Splits) -> dict[str, Any]:
        labels = splits.train.labels
        if labels is None or len(labels.unique()) < 2:
            reason = "the training images have no classes" if labels is None else "the training images are all of one class"
            raise UserError(f"{reason}, which features=classifier learns from; features=inception does without (none: no FID)")
        cache = DiskCache(user_path(self.cache_dir))
        path = cache.path("classifier", VERSION, splits.fingerprint, splits.train.shape, self.max_images, self.max_side)
        trained = cache.load_or_make(path, lambda: train_classifier(splits, self.max_images, self.max_side))
        log.info("classifier features: %s", trained["quality"])
        return trained


def train_classifier(splits: Splits, max_images: int, max_side: int) -> dict[str, Any]:
    """Returns {"weights": of the network, "head": of its class scores, "quality": a line about its accuracy}."""
    images, labels = load_images(splits.train, max_images, max_side)
    log.info("classifier features: training on %d images, once for this data", len(images))
    classes, targets = labels.unique(return_inverse=True)
    with in_float32(torch.device("cpu")), torch.enable_grad(), own_randomness(SEED):
        network, head = FeatureNetwork(splits.train.shape, max_side), LateHead(len(classes))
        model = nn.Sequential(network, head)
        minimise_cross_entropy(model, images, targets)
    with in_float32(torch.device("cpu")), torch.no_grad():
        quality = f"{held_out_accuracy(model, classes, splits.held_out, max_side)}, trained on {len(images)} images"
        network.scale.copy_(unit_variance(torch.cat([network(part) for part in images.split(CHUNK)])))
        head.linear.weight /= network.scale[HALF:]  # the class scores remain as they were trained
    return {"weights": network.state_dict(), "head": head.state_dict(), "quality": quality}


class LateHead(nn.Module):
    """Maps the last layer's half of the features to class scores [B, num_classes]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(HALF, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features[:, HALF:])


def load_images(images: ImageSet, max_num: int, max_side: int) -> tuple[Tensor, Tensor]:
    """Returns the first images, reduced in size, and their labels."""
    parts = [images.batch(indices) for indices in torch.arange(min(max_num, len(images))).split(CHUNK)]
    return torch.cat([downscale(part["image"].cpu(), max_side) for part in parts]), torch.cat(
        [part["label"].cpu() for part in parts]
    )


def minimise_cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> None:
    """Trains with AdamW on the cross-entropy, with a learning rate that decays to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    num_steps = max(MIN_STEPS, MIN_EPOCHS * len(images) // BATCH_SIZE)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / num_steps)
        chosen = torch.randint(len(images), (BATCH_SIZE,))
        loss = F.cross_entropy(model(images[chosen]), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def unit_variance(features: Tensor) -> Tensor:
    """Returns factors [64], equal within each half of `features` [N, 64], that give each half a mean variance of one."""
    halves = [half.var(0).mean().clamp_min(1e-12).rsqrt().expand(HALF) for half in features.split(HALF, 1)]
    return torch.cat(halves)


def held_out_accuracy(model: nn.Module, classes: Tensor, held_out: ImageSet, max_side: int) -> str:
    """Returns a line with the accuracy of the network on held-out images."""
    if len(held_out) == 0 or held_out.labels is None:
        return "no held-out images to test it on"
    images, labels = load_images(held_out, MAX_TESTED, max_side)
    predicted = torch.cat([classes[model(part).argmax(1)] for part in images.split(CHUNK)])
    return f"{(predicted == labels).double().mean():.1%} on {len(labels)} held-out images"


def hash_of_weights(weights: dict[str, Tensor]) -> str:
    """Returns a hash of the values, in their order."""
    content = b"".join(value.contiguous().numpy().tobytes() for value in weights.values())
    return hashlib.blake2b(content, digest_size=8).hexdigest()
