"""A small network that is trained on the images themselves, and what its trainings, with and without labels, have in common."""

import hashlib
import logging
from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.bits import rounded_to_uint8
from alphabar.data import ImageSet, Shape
from alphabar.files.cache import DiskCache
from alphabar.files.paths import user_path
from alphabar.metrics import Extractor, Features, Splits
from alphabar.metrics.extractor import in_float32, own_randomness
from alphabar.progress import show_progress
from alphabar.runs.processes.distributed import from_first

log = logging.getLogger(__name__)
SEED = 0  # independent of the run's seed, so that figures of different runs can be compared
HALF = 32
NUM_FEATURES = 2 * HALF
SMALL = 16  # the largest side, in pixels, at which the first layer keeps the resolution
CHUNK = 500
MAX_BATCH = 125  # with which a processor is fastest: of more images, layers do not fit into its caches
READ_CHUNK = 50  # images between two updates of what shows the progress
MAX_REFERENCE = 50_000  # training images to compare with, as many as is usual: of a million, the others would take hours to decode
USUAL_SIDE = 32  # pixels per side that the network sees


@dataclass(frozen=True)
class TrainedFeatures(Features, ABC):
    """The features of a small network that is trained on the data, on the CPU and with fixed seeds, once for each data set.

    cache_dir: the folder in which the trained network is kept. max_images: the number of training images used.
    max_side: pixels per side that the network sees, at most; more show finer detail, and take longer to train.

    Raises ValueError unless max_images >= 2 and max_side >= 8.
    """

    cache_dir: str
    max_images: int
    max_side: int = USUAL_SIDE

    def __post_init__(self) -> None:
        if self.max_images < 2 or self.max_side < 8:
            raise ValueError(f"need max_images >= 2 and max_side >= 8, got max_images={self.max_images}, max_side={self.max_side}")


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
        stride = 1 if min(*shape[1:], max_side) <= SMALL else 2
        self.early = nn.Sequential(*conv_block(shape.channels, 32, stride), *conv_block(32, 64, 2), *conv_block(64, HALF, 1))
        self.late = nn.Sequential(*conv_block(HALF, HALF, 2))
        self.register_buffer("scale", torch.ones(NUM_FEATURES))

    def forward(self, images: Tensor) -> Tensor:
        early = self.early(downscale(images, self.max_side).float() / 127.5 - 1)
        return torch.cat([early.mean((2, 3)), self.late(early).mean((2, 3))], 1) * self.scale

    def standardise(self, images: Tensor) -> None:
        """Sets `scale`, which must not have been set before, by training images [N, C, H, W]; inside `torch.no_grad` alone."""
        features = torch.cat([self(part) for part in images.split(CHUNK)])
        self.scale.copy_(unit_variance(features))


def conv_block(channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    """Returns a block of 3x3 convolution, normalisation and ReLU."""
    return nn.Conv2d(channels, out_channels, 3, stride, padding=1), nn.GroupNorm(8, out_channels), nn.ReLU()


def downscale(images: Tensor, max_side: int) -> Tensor:
    """Returns uint8 images, averaged over areas down to at most max_side x max_side."""
    height, width = images.shape[2:]
    if max(height, width) <= max_side:
        return images
    return F.adaptive_avg_pool2d(images.float(), (min(height, max_side), min(width, max_side))).round().to(torch.uint8)


def unit_variance(features: Tensor) -> Tensor:
    """Returns factors [64], equal within each half of `features` [N, 64], that give each half a mean variance of one."""
    halves = [half.var(0).mean().clamp_min(1e-12).rsqrt().expand(HALF) for half in features.split(HALF, 1)]
    return torch.cat(halves)


def load_images(images: ImageSet, max_num: int, max_side: int) -> dict[str, Tensor]:
    """Returns the batch of the first images, at most max_num, on the CPU, reduced in size and, of 16 bits, to uint8."""
    num, parts = min(max_num, len(images)), []
    with show_progress("reading images for features", num, "img") as bar:
        for indices in torch.arange(num).split(READ_CHUNK):
            part = images.batch(indices)
            parts.append({**part, "image": downscale(rounded_to_uint8(part["image"].cpu()), max_side)})
            bar.update(len(indices))
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


def training_steps(num_steps: int, name: str) -> Iterator[int]:
    """Yields the indices of the steps of a training, whose progress is shown under the name of the features."""
    with show_progress(f"training {name} features", num_steps, "step") as bar:
        for step in range(num_steps):
            yield step
            bar.update()


def trained_once(
    name: str, version: int, splits: Splits, cache_dir: str, settings: tuple[object, ...], train: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Returns what `train` returns, or what it returned to an earlier run of the same version, data and settings.

    It is called on the first process alone, since two trainings may differ in the last bit. All processes call this function.
    The entry "quality" is logged: a line about how well it was trained.
    """

    def load_or_train() -> dict[str, Any]:
        cache = DiskCache(user_path(cache_dir))
        trained = cache.load_or_make(cache.path(name, version, splits.fingerprint, splits.train.shape, *settings), train)
        log.info("%s features: %s", name, trained["quality"])
        return trained

    return from_first(load_or_train)


def network_extractor(
    kind: str,
    shape: Shape,
    max_side: int,
    trained: dict[str, Any],
    cache_dir: str,
    head: nn.Module | None = None,
    labels: Tensor | None = None,
    max_reference: int | None = None,
) -> Extractor:
    """Returns the extractor of a trained network. Its name is the kind of features, with max_side if that is not the usual 32.

    trained: "weights" of the network, "head" of its class scores or {}, and a line on its "quality".
    max_reference: see `Extractor`.
    """
    with in_float32(torch.device("cpu")), own_randomness(SEED):
        network = FeatureNetwork(shape, max_side)
    network.load_state_dict(trained["weights"])
    content = hash_of_weights(trained["weights"] | trained["head"])
    description = (
        f"{kind} of {NUM_FEATURES} features, {trained['quality']}, weights {content}, areas down to {max_side} pixels, float32"
    )
    name = kind if max_side == USUAL_SIDE else f"{kind}{max_side}"
    folder = user_path(cache_dir)
    return Extractor(
        network, NUM_FEATURES, name, description, (shape.channels,), MAX_BATCH, folder, head, labels, max_reference=max_reference
    )


def hash_of_weights(weights: dict[str, Tensor]) -> str:
    """Returns a hash of the values, in their order."""
    content = b"".join(value.contiguous().numpy().tobytes() for value in weights.values())
    return hashlib.blake2b(content, digest_size=8).hexdigest()
