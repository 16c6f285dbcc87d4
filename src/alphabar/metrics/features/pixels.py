"""Features without a network: the principal components of the pixels."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.files.paths import user_path
from alphabar.metrics import Extractor, Features, Splits, TooFewImages
from alphabar.metrics.extractor import in_float32, own_randomness
from alphabar.metrics.features.feature_network import (
    CHUNK,
    MAX_REFERENCE,
    SEED,
    USUAL_SIDE,
    downscale,
    hash_of_weights,
    load_images,
    trained_once,
)

VERSION = 1  # increased with every change, here or in `downscale`, that changes a feature
MIN_IMAGES = 2
NUM_COMPONENTS = 64


class PrincipalComponents(nn.Module):
    """Maps uint8 [B, C, H, W] to float32 [B, D]: the projection of the pixels x on directions w, (x - mean) w.

    mean: float32 [P], P = C * side * side. directions: float32 [P, D]. max_side: images are averaged over areas down to at most so
    many pixels per side.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, mean: Tensor, directions: Tensor, max_side: int) -> None:
        super().__init__()
        self.max_side = max_side
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)

    def forward(self, images: Tensor) -> Tensor:
        return (downscale(images, self.max_side).flatten(1).float() / 127.5 - 1 - self.mean) @ self.directions


@dataclass(frozen=True)
class PixelFeatures(Features):
    """Principal components of the training images' pixels, divided by one factor that gives them a mean variance of one.

    So the distances keep the proportions that they have in pixels, and a figure is of about the same size for every data set.

    There are 64, or one less than there are training images, or as many as there are pixels, if that is fewer.

    max_images: the number of training images used. max_side: pixels per side to which images are averaged, at most.
    Raises ValueError unless max_images >= 2 and max_side >= 1.
    """

    cache_dir: str
    max_images: int
    max_side: int = USUAL_SIDE

    def __post_init__(self) -> None:
        if self.max_images < MIN_IMAGES or self.max_side < 1:
            raise ValueError(f"need max_images >= 2 and max_side >= 1, got max_images={self.max_images}, max_side={self.max_side}")

    def extractors(self, splits: Splits) -> list[Extractor]:
        if len(splits.train) < MIN_IMAGES:
            raise TooFewImages(f"pixels takes {MIN_IMAGES} training images or more, got {len(splits.train)}")
        settings = (self.max_images, self.max_side)
        fitted = trained_once("pixels", VERSION, splits, self.cache_dir, settings, lambda: fit_components(splits, *settings))
        mean, directions = fitted["weights"]["mean"], fitted["weights"]["directions"]
        num = directions.shape[1]
        description = f"{fitted['quality']}, {hash_of_weights(fitted['weights'])}, areas down to {self.max_side} pixels, float32"
        name = "pixels" if self.max_side == USUAL_SIDE else f"pixels{self.max_side}"
        network, channels = PrincipalComponents(mean, directions, self.max_side), (splits.train.shape.channels,)
        folder = user_path(self.cache_dir)
        return [Extractor(network, num, name, description, channels, CHUNK, folder, max_reference=MAX_REFERENCE)]


def fit_components(splits: Splits, max_images: int, max_side: int) -> dict[str, Any]:
    """Returns {"weights": mean and directions of the first principal components, "quality": a line on their variance}."""
    pixels = load_images(splits.train, max_images, max_side)["image"].flatten(1)
    with in_float32(torch.device("cpu")), torch.no_grad(), own_randomness(SEED):
        values = pixels.float() / 127.5 - 1
        num = min(NUM_COMPONENTS, len(values) - 1, values.shape[1])
        _, deviations, directions = torch.pca_lowrank(values, num, niter=4)
        variances = deviations.double().square() / (len(values) - 1)
        share = variances.sum() / values.double().var(0).sum().clamp_min(1e-12)
        scale = variances.mean().clamp_min(1e-12).rsqrt().float()
    quality = f"{num} principal components with {share:.1%} of the variance of the pixels of {len(values)} images"
    return {"weights": {"mean": values.mean(0), "directions": (directions * scale).contiguous()}, "quality": quality}
