"""The allocator of the system can be told to keep memory that is freed."""

import ctypes
import sys

MMAP_MAX, TRIM_THRESHOLD, TOP_PAD = -4, -1, -2  # parameters of mallopt in glibc's malloc.h
NEVER, PADDING = -1, 64 * 2**20  # bytes of free memory at which it is given back, and by which more is taken at once


def keep_freed_memory() -> bool:
    """Makes the allocator keep freed memory for what is allocated next; returns whether it can be told so, which glibc can.

    By default glibc gives every large tensor back to the system when it is freed, and the next one is new pages, each of which the
    kernel clears when it is first touched: thousands in a step. Other programs do not get the memory back before the end.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another library, such as musl
        return False
    return all(mallopt(parameter, value) for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, PADDING)))
