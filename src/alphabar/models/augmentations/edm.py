"""The augmentation of EDM, for small sets of images."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.models.augmentations import AugmentedImages, LabelledAugmentation
from alphabar.models.codecs.pixels import to_model_range, to_uint8

SCALE_STD, STRETCH_STD, SHIFT_STD = 0.2, 0.2, 0.125  # of log2(factor), and of translations in sides of the image; table 6
NUM_LABELS = 9


class Transformation(NamedTuple):
    """The transformation of each of B images, float32 [B] each: flips, then an affine map of the plane. 0 is no change.

    x_flip, y_flip: 1 to mirror left to right, or upside down. scale: in units of 0.2 octaves. angle: counterclockwise, in radians.
    stretch: anisotropic scaling along stretch_angle, in units of 0.2 octaves, and its inverse across. right, down: the translation,
    in units of 0.125 sides.
    """

    x_flip: Tensor
    y_flip: Tensor
    scale: Tensor
    angle: Tensor
    stretch: Tensor
    stretch_angle: Tensor
    right: Tensor
    down: Tensor

    def labels(self) -> Tensor:
        """Returns the labels [B, 9], continuous functions of the transformation: angles enter by sine and cosine."""
        angle = (self.angle.cos() - 1, self.angle.sin())
        stretch = (self.stretch * self.stretch_angle.cos(), self.stretch * self.stretch_angle.sin())
        return torch.stack([self.x_flip, self.y_flip, self.scale, *angle, *stretch, self.right, self.down], 1)

    def apply(self, images: Tensor) -> Tensor:
        """Returns transformed images [B, C, H, W], uint8 or in [-1, 1]; unchanged images are equal to the bit."""
        images = images if images.dtype == torch.uint8 else to_model_range(images)
        images = torch.where(_wide(self.x_flip) > 0, images.flip(3), images)
        images = torch.where(_wide(self.y_flip) > 0, images.flip(2), images)
        moved = torch.stack([self.scale, self.angle, self.stretch, self.right, self.down], 1).any(1)
        warped = self._warp(to_model_range(images)).clamp(-1, 1)
        return torch.where(_wide(moved), to_uint8(warped) if images.dtype == torch.uint8 else warped, images)

    def _warp(self, x: Tensor) -> Tensor:
        """Returns x after the affine map, by bicubic interpolation, with reflection at the borders."""
        height, width = x.shape[2:]
        across = self._inverse_map()
        size = x.new_tensor([width, height]) / 2  # of a coordinate of 1 in a grid
        shift = SHIFT_STD * x.new_tensor([width, height]) * torch.stack([self.right, self.down], 1)
        origin = -(across @ shift[:, :, None])[:, :, 0] / size
        theta = torch.cat([across * size / size[:, None], origin[:, :, None]], 2)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)

    def _inverse_map(self) -> Tensor:
        """Returns the matrices [B, 2, 2] of the inverse map, in coordinates (x, y) about the centre with y down."""
        shrink = torch.exp2(-SCALE_STD * self.scale)
        stretch = torch.exp2(-STRETCH_STD * self.stretch)
        axes = _rotation(self.stretch_angle)
        stretched = axes @ torch.diag_embed(torch.stack([stretch, 1 / stretch], 1)) @ axes.mT
        return shrink[:, None, None] * _rotation(self.angle) @ stretched


@dataclass(frozen=True)
class EDMAugmentation(LabelledAugmentation):
    """The geometric augmentation of Karras et al. 2022, app. F.2 and table 6, after Jun et al. 2020: flips about both
    axes, isotropic scaling, rotation, anisotropic scaling and translation, each applied independently with probability p.

    The paper's also mirrors half of all images left to right whatever p is, which is `data.flip` here, and filters in a wavelet
    basis. p: 0.12 in the paper, for 50,000 images; up to 0.3 for a few hundred. Raises ValueError unless 0 <= p <= 1.
    """

    p: float = 0.12

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"need 0 <= p <= 1, got p={self.p}")

    def __call__(self, images: Tensor, share: RankShare = SINGLE_PROCESS) -> AugmentedImages:
        with torch.autocast(images.device.type, enabled=False):
            transformation = self.draw(len(images), images.device, share)
            return AugmentedImages(transformation.apply(images), transformation.labels())

    def draw(self, num: int, device: torch.device, share: RankShare = SINGLE_PROCESS) -> Transformation:
        """Returns a random transformation of `num` images."""
        normal = share.randn((num, 4), device)
        uniform = share.draw(lambda rows, generator: torch.rand(rows, 11, device=device, generator=generator), num, device)
        happens, coins, turns = (uniform[:, :6] < self.p).float(), (uniform[:, 6:8] < 0.5).float(), 2 * uniform[:, 8:10] - 1
        x_flip, y_flip = (happens[:, :2] * coins).unbind(1)
        scale, angle, stretch = happens[:, 2] * normal[:, 0], happens[:, 3] * math.pi * turns[:, 0], happens[:, 4] * normal[:, 1]
        stretch_angle = happens[:, 4] * (uniform[:, 10] < 0.5) * math.pi * turns[:, 1]
        right, down = (happens[:, 5:] * normal[:, 2:]).unbind(1)
        return Transformation(x_flip, y_flip, scale, angle, stretch, stretch_angle, right, down)


def _rotation(angle: Tensor) -> Tensor:
    """Returns the matrices [B, 2, 2] that turn (x, y), with y down, clockwise."""
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
