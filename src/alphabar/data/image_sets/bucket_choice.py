"""The choice of aspect-ratio buckets from the sizes of the images, for `data.buckets=auto`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alphabar.data import Shape
from alphabar.errors import UserError
from alphabar.resolution import format_resolution, resolution_of

MAX_BUCKETS = 6
MIN_SAVED = 0.01  # the mean share of an image that a further bucket has to save from cropping
AREA = 0.2  # the relative difference between the areas of a bucket and of the resolution, at most
SPACING, STEEPEST = math.log(1.15), math.log(4)  # |log(aspect ratio)|: the smallest distance of two buckets, and the largest value
PRECISION = 1000  # log aspect ratios are rounded to 1 / PRECISION, so that equal ones are evaluated once
Size = tuple[int, int]


def choose_buckets(sizes: Tensor, resolution: Size, factor: int, min_images: int) -> list[Size]:
    """Returns at most MAX_BUCKETS sizes (height, width) for images of `sizes` [N, 2]: `resolution` and others of about its area.

    They are chosen greedily: each further bucket is the one that reduces the mean cropped area most, until it would save no more
    than MIN_SAVED. Every bucket is nearest to at least `min_images` images. The result is sorted from wide to tall.

    factor: the common divisor of all sides.
    Raises UserError if no image is nearest to `resolution`, the size of samples and figures.
    """
    candidates = [resolution, *(size for size in _sizes_of_area(resolution, factor) if size != resolution)]
    proportions = torch.tensor([_log_proportion(*size) for size in candidates], dtype=torch.float64)
    logs = (sizes[:, 0].double() / sizes[:, 1]).log()
    own, counts = (logs * PRECISION).round().unique(return_counts=True)
    distances = (own[:, None] / PRECISION - proportions).abs()
    cropped = 1 - (-distances).exp()  # of each kind of image, by each candidate
    chosen = [0]
    while len(chosen) < MAX_BUCKETS:
        now = cropped[:, chosen].min(1).values
        saved = (now[:, None] - cropped).clamp(min=0)
        num_images = ((saved > 0) * counts[:, None]).sum(0)
        is_apart = (proportions[:, None] - proportions[chosen]).abs().min(1).values >= SPACING
        gains = (saved * counts[:, None]).sum(0) / len(sizes) * (is_apart & (num_images >= min_images))
        if float(gains.max()) <= MIN_SAVED:
            break
        chosen.append(int(gains.argmax()))
    while True:  # a later one may have taken images from one before
        nearest = distances[:, chosen].argmin(1)
        num_images = torch.zeros(len(chosen), dtype=torch.int64).index_add_(0, nearest, counts)
        if len(chosen) == 1 or int(num_images[1:].min()) >= min_images:
            break
        del chosen[1 + int(num_images[1:].argmin())]
    if not num_images[0]:
        most = candidates[chosen[int(num_images.argmax())]]
        raise UserError(
            f"data.buckets=auto: no training image has about the proportions of data.resolution={_format(resolution)}, of which "
            f"samples and figures are; most have those of data.resolution={_format(most)}"
        )
    return sorted((candidates[index] for index in chosen), key=lambda size: _log_proportion(*size))


def common_factor(shape: Shape, is_suitable: Callable[[Shape], bool]) -> int:
    """Returns the smallest common divisor that the sides of suitable images need, given that `shape` is suitable."""
    channels, height, width = shape
    largest = math.gcd(height, width)
    divisors = (number for number in range(1, largest) if largest % number == 0)
    return next((number for number in divisors if is_suitable(Shape(channels, height + number, width + number))), largest)


def _sizes_of_area(resolution: Size, factor: int) -> list[Size]:
    """Returns the sizes of about the area of `resolution` whose sides are multiples of `factor`, the widest first."""
    area = math.prod(resolution)
    found: list[Size] = []
    for height in range(factor, 3 * math.isqrt(area) + factor, factor):
        below = area // height // factor * factor
        for width in (below + factor, below):
            if width and abs(height * width / area - 1) <= AREA and abs(_log_proportion(height, width)) <= STEEPEST:
                found.append((height, width))
    return found


def _log_proportion(height: int, width: int) -> float:
    return math.log(height / width)


def _format(size: Size) -> str:
    return format_resolution(resolution_of(*size))
