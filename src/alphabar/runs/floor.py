"""Figures against their floor, the same figure of held-out real images."""

import math


def times_floor(value: float | None, floor: float | None) -> float | None:
    """Returns value / floor, or None unless both are known and finite and the floor is positive."""
    if value is None or floor is None or not math.isfinite(value) or not math.isfinite(floor) or floor <= 0:
        return None
    return value / floor


def against_floor(value: float | None, floor: float | None) -> str:
    """Returns the figure of a distance in words, such as "1.39 x the floor"; "" where there is no floor to divide by."""
    ratio = times_floor(value, floor)
    return "" if ratio is None else f"{ratio:.3g} x the floor"
