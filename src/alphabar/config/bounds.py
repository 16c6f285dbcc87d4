"""Bounds on the resources that a configuration from a file, which somebody else may have written, can demand of this machine.

The size of networks and schedules is bounded by the weights in the file; this module bounds numbers of images, processes and steps.
"""

import math
import os
import re
from collections.abc import Iterator
from typing import Any

from alphabar.config.interpolation import Path, dotted_path
from alphabar.errors import UserError

# The most for a key, by its last part, wherever it stands: what the largest runs of today take, and some more.
MOST = {
    "accumulate_grad_batches": 2**16,
    "batch_size": 2**16,
    "devices": 2**10,
    "max_resident_mb": 2**24,
    "max_side": 2**14,
    "num": 10**7,
    "num_frames": 2**10,
    "num_nodes": 2**14,
    "num_steps": 10**6,
    "num_workers": 2**10,
    "resolution": 2**14,
}
SAMPLES, FILM = "Samples", "Film"  # callbacks that have all their images in memory, one of them in all states
BYTES_PER_PIXEL = 12  # float32, RGB
SEPARATORS = re.compile(r"[\s,'\"\[\](){}:=]+")  # of what an override names: its key, and the values in lists and mappings
PARTS = re.compile(r"(?P<key>[\w.+]+)\s*[:=]|(?P<value>[^\s,'\"\[\](){}:=]+)")


def exceeds_bounds(word: str) -> bool:
    """Returns whether an override sets a key to more than its bound in `MOST`, even in a list or mapping, or interpolates it."""
    most: int | None = None
    for part in PARTS.finditer(word):
        if part["key"] is not None:
            most = MOST.get(part["key"].lstrip("+").rpartition(".")[2])
        elif most is not None and _exceeds(part["value"], most):
            return True
    return False


def _exceeds(text: str, most: int) -> bool:
    try:
        return float(text) > most
    except ValueError:  # the name of a function of Hydra's, such as range
        return "$" in text


def memory_of_machine() -> int | None:
    """Returns the memory of the machine in bytes, or None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def must_fit_in_memory(config: dict[str, Any], name: str) -> None:
    """Raises UserError, with the key, if the images that a run holds in memory at a time exceed the memory of this machine.

    config: of the run, plain. name: the file in messages.
    """
    memory = memory_of_machine()
    if memory is None:
        return
    nodes = list(_mappings(config, ()))
    size = max((_size(node.get("resolution")) for _, node in nodes), key=math.prod, default=(1, 1))
    path, num = max(_numbers_of_images(nodes), key=lambda item: item[1], default=((), 0))
    if (needed := num * math.prod(size) * BYTES_PER_PIXEL) > memory:
        images = f"{num:,} images of {size[0]}x{size[1]} take {needed / 2**30:,.1f} GB"
        raise UserError(f"{name}: {dotted_path(path)}: {images}, and this machine has {memory / 2**30:,.1f} GB of memory")


def _size(value: object) -> tuple[int, int]:
    """Returns the height and the width of a resolution; (1, 1) of anything else."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, list) and [type(side) for side in value] == [int, int]:
        return value[0], value[1]
    return 1, 1


def _mappings(value: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the paths of all mappings in nested mappings, and the mappings."""
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from _mappings(item, (*path, key))


def _numbers_of_images(nodes: list[tuple[Path, dict[str, Any]]]) -> Iterator[tuple[Path, int]]:
    """Yields the paths of numbers of images that are in memory at a time, and the numbers."""
    for path, node in nodes:
        if isinstance(node.get("batch_size"), int):
            yield (*path, "batch_size"), node["batch_size"]
        cls = str(node.get("_target_")).rpartition(".")[2]
        if cls in (SAMPLES, FILM) and isinstance(node.get("num"), int):
            sampler = node.get("sampler")
            states = sampler.get("num_steps") if cls == FILM and isinstance(sampler, dict) else 1
            yield (*path, "num"), node["num"] * (states if isinstance(states, int) else 1)
