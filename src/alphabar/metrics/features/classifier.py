"""Features of a small classifier of the data's own classes: a measure that needs no download."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.data import ImageSet
from alphabar.errors import UserError
from alphabar.metrics import Extractor, Splits
from alphabar.metrics.extractor import in_float32, own_randomness
from alphabar.metrics.features.feature_network import (
    CHUNK,
    HALF,
    SEED,
    FeatureNetwork,
    TrainedFeatures,
    load_images,
    network_extractor,
    trained_once,
    training_steps,
)

log = logging.getLogger(__name__)
VERSION = 2  # increased with every change, here or in the network, that changes a feature or a logit
MIN_STEPS = 400
MIN_EPOCHS = 4
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
MAX_TESTED = 2000


class ClassifierFeatures(TrainedFeatures):
    """The features of a classifier of the data's classes."""

    def extractors(self, splits: Splits) -> list[Extractor]:
        lack = lack_of_classes(splits)
        if lack is not None:
            raise UserError(f"{lack}, which features=classifier learns from; features=selfsup does without (none: no FID)")
        settings = (self.max_images, self.max_side)
        trained = trained_once("classifier", VERSION, splits, self.cache_dir, settings, lambda: train_classifier(splits, *settings))
        with in_float32(torch.device("cpu")), own_randomness(SEED):
            head = LateHead(len(trained["head"]["linear.bias"]))
        head.load_state_dict(trained["head"])
        labels = None if splits.train.labels is None else splits.train.labels[: self.max_images].unique()
        shape = splits.train.shape
        return [network_extractor("classifier", shape, self.max_side, trained, self.cache_dir, head, labels)]


def lack_of_classes(splits: Splits) -> str | None:
    """Returns why a classifier cannot learn from the training images, or None if it can."""
    labels = splits.train.labels
    if labels is None:
        return "the training images have no classes"
    return "the training images are all of one class" if len(labels.unique()) < 2 else None


def train_classifier(splits: Splits, max_images: int, max_side: int) -> dict[str, Any]:
    """Returns {"weights": of the network, "head": of its class scores, "quality": a line about its accuracy}."""
    batch = load_images(splits.train, max_images, max_side)
    images = batch["image"]
    log.info("classifier features: training on %d images, once for this data", len(images))
    classes, targets = batch["label"].unique(return_inverse=True)
    with in_float32(torch.device("cpu")), torch.enable_grad(), own_randomness(SEED):
        network, head = FeatureNetwork(splits.train.shape, max_side), LateHead(len(classes))
        model = nn.Sequential(network, head)
        minimise_cross_entropy(model, images, targets)
    with in_float32(torch.device("cpu")), torch.no_grad():
        quality = f"{held_out_accuracy(model, classes, splits.held_out, max_side)}, trained on {len(images)} images"
        network.standardise(images)
        head.linear.weight /= network.scale[HALF:]  # the class scores remain as they were trained
    return {"weights": network.state_dict(), "head": head.state_dict(), "quality": quality}


class LateHead(nn.Module):
    """Maps the last layer's half of the features to class scores [B, num_classes]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(HALF, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features[:, HALF:])


def minimise_cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> None:
    """Trains with AdamW on the cross-entropy, with a learning rate that decays to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    num_steps = max(MIN_STEPS, MIN_EPOCHS * len(images) // BATCH_SIZE)
    for step in training_steps(num_steps, "classifier"):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / num_steps)
        chosen = torch.randint(len(images), (BATCH_SIZE,))
        loss = F.cross_entropy(model(images[chosen]), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def held_out_accuracy(model: nn.Module, classes: Tensor, held_out: ImageSet, max_side: int) -> str:
    """Returns a line with the accuracy of the network on held-out images."""
    if len(held_out) == 0 or held_out.labels is None:
        return "no held-out images to test it on"
    batch = load_images(held_out, MAX_TESTED, max_side)
    predicted = torch.cat([classes[model(part).argmax(1)] for part in batch["image"].split(CHUNK)])
    return f"{(predicted == batch['label']).double().mean():.1%} on {len(predicted)} held-out images"
