"""Checks of the pixels of generated images: colour cast, changed contrast, saturated pixels, low diversity."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from alphabar.metrics.feature_set import Gaussian
from alphabar.runs.processes.distributed import sum_over_ranks

CAST_ERRORS = 4.0  # standard errors of the difference: by chance once in 16,000 channels
CAST_LEVELS = 2.5  # grey levels: about what an eye notices on an even surface
CONTRAST = (0.8, 1.25)  # generated / real
SATURATION = 0.1  # the share of all pixels
DIVERSITY = 0.5  # generated / real
MIN_IMAGES = 32  # the minimum of generated and of real images; statistics of fewer differ by chance
COLOURS = ("red", "green", "blue", "alpha")


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of the pixels of a set of uint8 images; those of two disjoint sets add up to those of their union.

    sums: [6, C], float64, for every channel: images, pixels, sum of the values, sum of their squares, sum over images of the square
        of the image's mean, pixels that are exactly 0 or 255.
    """

    sums: Tensor

    @classmethod
    def empty(cls, num_channels: int, device: torch.device | str = "cpu") -> Self:
        """Returns the statistics of no images, on the CPU in place of Apple's GPUs, which have no float64."""
        home = torch.device("cpu") if torch.device(device).type == "mps" else device
        return cls(torch.zeros(6, num_channels, dtype=torch.float64, device=home))

    @classmethod
    def of(cls, images: Tensor) -> Self:
        """Returns the statistics of uint8 images [B, C, H, W], B >= 0, on their device. Raises ValueError for anything else."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"need uint8 images [B, C, H, W], got {images.dtype} {list(images.shape)}")
        if images.device.type == "mps":
            images = images.cpu()
        pixels = images.flatten(2)
        num_images, num_channels, num_pixels = pixels.shape
        values = pixels.int()
        by_image = values.sum(2)  # sums of integers are exact in any order
        saturated = ((pixels == 0) | (pixels == 255)).sum(2)
        rows = (
            torch.full((num_channels,), num_images, device=images.device),
            torch.full((num_channels,), num_images * num_pixels, device=images.device),
            by_image.sum(0),
            values.square().sum(2).sum(0),
            (by_image.double() / num_pixels).square().sum(0),
            saturated.sum(0),
        )
        return cls(torch.stack([row.double() for row in rows]))

    def __add__(self, other: "ImageStatistics") -> "ImageStatistics":
        return ImageStatistics(self.sums + other.sums.to(self.sums.device))

    def of_all_processes(self) -> "ImageStatistics":
        """Returns the statistics of the images of all processes, on every process; all of them call it."""
        return ImageStatistics(sum_over_ranks(self.sums))

    @property
    def num_images(self) -> int:
        return int(self.sums[0, 0])

    @property
    def mean(self) -> Tensor:
        """The mean of all pixels of a channel, in grey levels [C]; NaN without images."""
        return self.sums[2] / self.sums[1]

    @property
    def std(self) -> Tensor:
        """The standard deviation of all pixels of a channel in grey levels [C], its contrast."""
        return (self.sums[3] / self.sums[1] - self.mean.square()).clamp(min=0).sqrt()

    @property
    def image_std(self) -> Tensor:
        """The unbiased standard deviation, over images, of a channel's mean, [C]; NaN with fewer than two images."""
        num = self.sums[0]
        return ((self.sums[4] - num * self.mean.square()).clamp(min=0) / (num - 1)).sqrt()

    @property
    def standard_error(self) -> Tensor:
        """The standard error of `mean`, [C], by images, which unlike their pixels are independent of each other."""
        return self.image_std / self.sums[0].sqrt()

    @property
    def saturated(self) -> float:
        """The share of values that are exactly 0 or 255, of all channels together."""
        return float(self.sums[5].sum() / self.sums[1].sum())

    def to_dict(self) -> dict[str, object]:
        """Returns plain numbers for a file; lists have a number for every channel."""
        return {
            "num_images": self.num_images,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "image_std": self.image_std.tolist(),
            "standard_error": self.standard_error.tolist(),
            "saturated": self.saturated,
        }


def diversity(generated: Gaussian, real: Gaussian) -> float:
    """Returns tr(cov of generated features) / tr(cov of real ones), 1 for equal distributions and near 0 if images are alike."""
    return float(generated.covariance.trace() / real.covariance.trace())


def image_warnings(generated: ImageStatistics, real: ImageStatistics, diversity: float | None = None) -> list[str]:
    """Returns one line for each fault of the generated images; none if there are fewer than 32 of either kind.

    diversity: the result of the function `diversity`; None: not checked.
    Raises ValueError for images with another number of channels.
    """
    if generated.sums.shape != real.sums.shape:
        raise ValueError(f"need as many channels in both, got {generated.sums.shape[1]} and {real.sums.shape[1]}")
    if min(generated.num_images, real.num_images) < MIN_IMAGES:
        return []
    lines = [*cast_warnings(generated, real), *contrast_warnings(generated, real)]
    if (
        generated.saturated > real.saturated + SATURATION
    ):  # fewer are no fault: flat backgrounds are hard to reproduce to the exact level
        lines.append(f"saturation: {generated.saturated:.1%} of all values are 0 or 255, of real images {real.saturated:.1%}")
    if diversity is not None and diversity < DIVERSITY:
        lines.append(f"diversity: the features of the images vary {diversity:.2f} times as much as those of real images")
    return lines


def cast_warnings(generated: ImageStatistics, real: ImageStatistics) -> list[str]:
    """Returns a line for each channel that is brighter or darker than in real images."""
    ours, theirs = generated.mean.cpu(), real.mean.cpu()
    errors = torch.hypot(generated.standard_error.cpu(), real.standard_error.cpu())
    names, lines = channel_names(len(ours)), list[str]()
    for name, mine, yours, error in zip(names, ours.tolist(), theirs.tolist(), errors.tolist(), strict=True):
        difference = abs(mine - yours)
        if difference > CAST_ERRORS * error and difference > CAST_LEVELS:
            direction = "brighter" if mine > yours else "darker"
            lines.append(
                f"colour cast: {name} is {difference:.1f} grey levels {direction} than in real images, "
                f"{mine:.1f} against {yours:.1f} with a standard error of {error:.2f}"
            )
    return lines


def contrast_warnings(generated: ImageStatistics, real: ImageStatistics) -> list[str]:
    """Returns a line for each channel that varies less or more than in real images."""
    names, lines = channel_names(len(real.std)), list[str]()
    for name, mine, yours in zip(names, generated.std.tolist(), real.std.tolist(), strict=True):
        if mine < CONTRAST[0] * yours or mine > CONTRAST[1] * yours:
            lines.append(f"contrast: the standard deviation of {name} is {mine:.1f} grey levels, of real images {yours:.1f}")
    return lines


def channel_names(num: int) -> tuple[str, ...]:
    """Returns the usual names of the channels."""
    if num == 1:
        return ("grey",)
    return COLOURS[:num] if num in (3, 4) else tuple(f"channel {index}" for index in range(num))
