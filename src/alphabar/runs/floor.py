"""Figures against their floor, the same figure of as many held-out real images.

FID is biased by the number of images, by about c / n. So where a data set has m held-out images and FID is measured of n > m
samples, their mean FID over sets of m samples is measured, too, and that alone is compared with the floor.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

MEAN_FID = "fid_mean"  # the kind of the mean FID over sets of as many samples as there are held-out images
MORE_HELD_OUT = "hold out more images, of a folder with data.held_out=0.3"  # what to do where a floor is of too few
BIASED = ("fid", "cmmd")  # kinds of figures that depend on the number of images even in their mean


class FloorPair(NamedTuple):
    """A FID, or a mean FID over sets, beside its floor, the FID of held-out images: both of equally many images."""

    name: str
    value: float
    floor: float

    @property
    def is_mean(self) -> bool:
        """Whether the FID is a mean over sets, since there are fewer held-out images than samples."""
        return self.name.startswith(f"{MEAN_FID}/")

    @property
    def num(self) -> int:
        """The number of images of which each of the two is."""
        return num_in_name(self.name)

    @property
    def ratio(self) -> float | None:
        """The multiple of the floor, see `times_floor`."""
        return times_floor(self.value, self.floor)

    @property
    def words(self) -> str:
        """The multiple of the floor in words, see `against_floor`."""
        return against_floor(self.value, self.floor)


def floor_pair(fid: str, figures: Mapping[str, float]) -> FloorPair | None:
    """Returns the FID with this name beside its floor, or else the mean FID over sets that goes with it; None if there is no floor.

    figures: by name, as in the metrics of a run: fid/n1000-selfsup-ema-ddim50 has its floor in fid/floor-n1000-selfsup, and
    fid_mean/n20-selfsup-ema-ddim50 in fid/floor-n20-selfsup.
    """
    _, _, settings = fid.partition("-")
    means = [name for name in figures if name.startswith(f"{MEAN_FID}/") and name.partition("-")[2] == settings]
    for name in (fid, *means):
        if name in figures and floor_name(name) in figures:
            return FloorPair(name, figures[name], figures[floor_name(name)])
    return None


def floor_name(figure: str) -> str:
    """Returns the name of a FID's floor: fid/floor-n1000-classifier for fid/n1000-classifier-ema-ddim50-eta0.5."""
    return "-".join(["fid/floor", *figure.partition("/")[2].split("-")[:2]])


def num_in_name(figure: str) -> int:
    """Returns the number of images in the name of a figure: 1000 of fid/n1000-classifier-ema-ddim50; 0 if there is none."""
    digits = figure.partition("/n")[2].partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def times_floor(value: float | None, floor: float | None) -> float | None:
    """Returns value / floor, or None unless both are known and finite and the floor is positive."""
    if value is None or floor is None or not math.isfinite(value) or not math.isfinite(floor) or floor <= 0:
        return None
    return value / floor


def against_floor(value: float | None, floor: float | None) -> str:
    """Returns the figure of a distance in words, such as "1.39 x the floor"; "" where there is no floor to divide by."""
    return ratio_words(times_floor(value, floor))


def ratio_words(ratio: float | None) -> str:
    """Returns a multiple of the floor in words; "" for None."""
    return "" if ratio is None else f"{ratio:.3g} x the floor"
