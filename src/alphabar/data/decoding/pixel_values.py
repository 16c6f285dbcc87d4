"""Grey values of more than 8 bits, and which of them is white."""

import logging
from functools import cache

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch.utils.data import get_worker_info

log = logging.getLogger(__name__)
INTEGERS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
WIDE_MODES = (*INTEGERS, "F")
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF
DEPTHS = (8, 12, 16)  # the bits that cameras and programs use; most fill them up


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Returns an image of one of `WIDE_MODES` as grey of 8 bits, in which what is transparent is white.

    Integers reach from 0 to the maximum that a TIFF states or else to that of the first of `DEPTHS` that holds them: 255, 4,095 or
    65,535; real numbers from 0 to 1. Raises ValueError for other values, whose range is not known.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not 0 <= low <= high <= 1:  # neither is NaN
            raise ValueError(f"floating-point pixels from {low:g} to {high:g}: need 0 to 1")
        grey = np.rint(values * np.float32(255)).astype(np.uint8)
    else:
        if not 0 <= low <= high < 2 ** DEPTHS[-1]:
            raise ValueError(f"integer pixels from {low} to {high}: need 0 to {2 ** DEPTHS[-1] - 1}")
        white = _stated_white(image, int(high)) or _likely_white(int(high))
        grey = np.rint(np.arange(white + 1) / (white / 255)).astype(np.uint8)[values]
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        grey[values == hidden] = 255
    return Image.fromarray(grey)


def _stated_white(image: Image.Image, high: int) -> int | None:
    """Returns the largest value that a TIFF says that there can be; None if it says nothing else than the mode, or is not so."""
    if not isinstance(image, TiffImageFile):
        return None
    bits, largest = (_number(image.tag_v2.get(tag)) for tag in (BITS_PER_SAMPLE, MAX_SAMPLE_VALUE))
    stated = largest or (2**bits - 1 if bits and bits < DEPTHS[-1] else None)
    return stated if stated is not None and max(high, 1) <= stated < 2 ** DEPTHS[-1] else None


def _number(value: object) -> int | None:
    """Returns the first number of a tag, or None."""
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else None


def _likely_white(high: int) -> int:
    white = next(2**bits - 1 for bits in DEPTHS if high < 2**bits)
    if 255 < white < 2 ** DEPTHS[-1] - 1:
        _say_once(white)
    return white


@cache
def _say_once(white: int) -> None:
    worker = get_worker_info()
    if worker is None or worker.id == 0:
        log.warning(
            "grey images with room for 65,535 whose values stay below %d: %d is taken for white, as of 12 bits", white + 1, white
        )
