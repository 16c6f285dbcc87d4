"""Non-leaking augmentations: the network is conditioned on the transformation of each image, and in sampling on none."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare


class AugmentedImages(NamedTuple):
    """Images [B, C, H, W], and labels float32 [B, L] of the transformation of each, all 0 for an unchanged image."""

    images: Tensor
    labels: Tensor


class LabelledAugmentation(ABC):
    """Changes training images at random, and gives the labels that the network reads as the condition "augmentation"."""

    @abstractmethod
    def __call__(self, images: Tensor, share: RankShare = SINGLE_PROCESS) -> AugmentedImages:
        """Returns images uint8 [B, C, H, W], on their device, changed by random numbers of `share`."""
