"""Augmentations that do not leak into samples: the network is told what was done to an image, and in sampling that nothing was."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare


class AugmentedImages(NamedTuple):
    """Images [B, C, H, W], and labels float32 [B, L] of what was done to each, all 0 for one that is as it was."""

    images: Tensor
    labels: Tensor


class LabelledAugmentation(ABC):
    """Changes training images at random, and gives the labels that the network reads as the condition "augmentation"."""

    @abstractmethod
    def __call__(self, images: Tensor, share: RankShare = SINGLE_PROCESS) -> AugmentedImages:
        """Returns images uint8 [B, C, H, W], on their device, changed by random numbers of `share`."""
