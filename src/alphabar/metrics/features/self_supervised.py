"""Features of a small network that learns without labels: a measure for any images that needs no download."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.data import ImageSet
from alphabar.metrics import Extractor, Splits, TooFewImages
from alphabar.metrics.extractor import in_float32, own_randomness
from alphabar.metrics.features.feature_network import (
    MAX_REFERENCE,
    NUM_FEATURES,
    SEED,
    FeatureNetwork,
    TrainedFeatures,
    load_images,
    network_extractor,
    trained_once,
    training_steps,
)

log = logging.getLogger(__name__)
VERSION = 1  # increased with every change, here or in the network, that changes a feature
NUM_STEPS = 400
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
TEMPERATURE = 0.2
MIN_AREA = 0.4  # of a view, as a share of the image
MIN_IMAGES = 2


class SelfSupervisedFeatures(TrainedFeatures):
    """The features of a network trained as SimCLR (Chen et al. 2020): two views of an image have to find each other in a batch.

    A view is a random crop and nothing else: colours, contrast, noise and sharpness are the same in both views and tell images
    apart, so that the network learns to see them instead of ignoring them, as it would with the augmentations of the paper.
    """

    def extractors(self, splits: Splits) -> list[Extractor]:
        if len(splits.train) < MIN_IMAGES:
            raise TooFewImages(f"selfsup learns from {MIN_IMAGES} training images or more, got {len(splits.train)}")
        settings = (self.max_images, self.max_side)
        trained = trained_once("selfsup", VERSION, splits, self.cache_dir, settings, lambda: train_network(splits, *settings))
        shape = splits.train.shape
        return [network_extractor("selfsup", shape, self.max_side, trained, self.cache_dir, max_reference=MAX_REFERENCE)]


def train_network(splits: Splits, max_images: int, max_side: int) -> dict[str, Any]:
    """Returns {"weights": of the network, "head": {}, "quality": a line about how well it finds views of one image}."""
    images = load_images(splits.train, max_images, max_side)["image"]
    log.info("selfsup features: training on %d images without labels, once for this data", len(images))
    with in_float32(torch.device("cpu")), torch.enable_grad(), own_randomness(SEED):
        network = FeatureNetwork(splits.train.shape, max_side)
        projection = nn.Sequential(nn.Linear(NUM_FEATURES, 128), nn.ReLU(), nn.Linear(128, 64))
        model = nn.Sequential(network, projection)
        minimise_nt_xent(model, images)
        with torch.no_grad():
            quality = f"{found_views(model, splits.held_out, max_side)}, trained on {len(images)} images"
            network.standardise(images)
    return {"weights": network.state_dict(), "head": {}, "quality": quality}


def minimise_nt_xent(model: nn.Module, images: Tensor) -> None:
    """Trains with AdamW on `nt_xent`, with a learning rate that decays to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    for step in training_steps(NUM_STEPS, "selfsup"):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / NUM_STEPS)
        chosen = images[torch.randperm(len(images))[:BATCH_SIZE]].float()
        loss = nt_xent(*model(torch.cat([random_crops(chosen), random_crops(chosen)])).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def random_crops(images: Tensor) -> Tensor:
    """Returns a square part of each image [B, C, H, W], at a random place, scaled to the size of the image (bilinear).

    Its area is uniform in [0.4, 1] of the image.
    """
    side = torch.empty(len(images), 1).uniform_(MIN_AREA, 1).sqrt()
    centre = (1 - side) * torch.empty(len(images), 2).uniform_(-1, 1)
    affine = torch.cat([torch.diag_embed(side.expand(-1, 2)), centre[:, :, None]], 2)
    places = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)


def similarities(first: Tensor, second: Tensor) -> Tensor:
    """Returns the cosine similarities [2B, 2B] of the vectors [B, D] of two views; minus infinity of a vector with itself."""
    vectors = F.normalize(torch.cat([first, second]), dim=1)
    return (vectors @ vectors.T).fill_diagonal_(-torch.inf)


def nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """Returns the loss of two views [B, D]: the cross-entropy of finding each vector's partner among all others.

    With cosine similarities s and temperature 0.2: the mean of -log(exp(s_ij / 0.2) / sum over k != i of exp(s_ik / 0.2));
    Chen et al. 2020, eq. 1.
    """
    num = len(first)
    partners = torch.arange(2 * num).roll(num)
    return F.cross_entropy(similarities(first, second) / TEMPERATURE, partners)


def found_views(model: nn.Module, held_out: ImageSet, max_side: int) -> str:
    """Returns a line with the share of views of held-out images that find the other view of their image."""
    if len(held_out) < MIN_IMAGES:
        return "no held-out images to test it on"
    images = load_images(held_out, BATCH_SIZE, max_side)["image"].float()
    nearest = similarities(model(random_crops(images)), model(random_crops(images))).argmax(1)
    share = (nearest == torch.arange(2 * len(images)).roll(len(images))).double().mean()
    return f"{share:.1%} of views find the other one of {len(images)} held-out images"
