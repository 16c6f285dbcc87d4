"""The height and width of images, which configurations give as one number for squares: 64, or [48, 64]."""

from collections.abc import Sequence

Resolution = int | Sequence[int]


def sides(resolution: Resolution) -> tuple[int, int]:
    """Returns (height, width) in pixels. Raises ValueError unless they are one number or two, each >= 1."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else _pair(resolution)
    if min(height, width) < 1:
        raise ValueError(f"need resolution >= 1, got resolution={format_resolution(resolution)}")
    return height, width


def _pair(resolution: Sequence[int]) -> tuple[int, int]:
    if len(resolution) != 2:
        raise ValueError(f"need one resolution, or two as [height, width], got resolution={format_resolution(resolution)}")
    return resolution[0], resolution[1]


def resolution_of(height: int, width: int) -> int | list[int]:
    """Returns a resolution as configurations write it, one number for a square: the inverse of `sides`."""
    return height if height == width else [height, width]


def format_resolution(resolution: Resolution) -> str:
    """Returns a resolution as the command line takes it: "64" or "[48,64]"."""
    return str(resolution) if isinstance(resolution, int) else f"[{','.join(map(str, resolution))}]"


def is_multiple(resolution: Resolution, factor: int) -> bool:
    """Returns whether `factor` divides both sides."""
    return all(side % factor == 0 for side in sides(resolution))


def nearest_multiples(resolution: Resolution, factor: int) -> str:
    """Returns the nearest sizes whose sides are multiples of `factor`, down and up, as in "48 or 64" or "[48,64] or [56,64]"."""
    both = sides(resolution)
    below = [max(side // factor, 1) * factor for side in both]
    above = [-(-side // factor) * factor for side in both]
    return " or ".join(dict.fromkeys(format_resolution(resolution_of(*size)) for size in (below, above)))


def num_halvings(resolution: Resolution) -> int:
    """Returns how often both sides can be halved."""
    return min((side & -side).bit_length() - 1 for side in sides(resolution))


def common_divisors(resolution: Resolution) -> list[int]:
    """Returns the numbers that divide both sides."""
    height, width = sides(resolution)
    return [number for number in range(1, min(height, width) + 1) if height % number == width % number == 0]


def nearest_size(wanted: Sequence[int], sizes: Sequence[int]) -> int:
    """Returns the size whose ratio to one of those wanted, which are > 0, is nearest to 1."""
    return min(sizes, key=lambda size: min(max(size / each, each / size) for each in wanted))
