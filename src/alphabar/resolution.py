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
