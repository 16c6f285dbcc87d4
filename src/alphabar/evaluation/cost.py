"""The cost of sampling: time and network evaluations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Cost:
    """The cost of drawing images on this process. seconds: the time, without the first batch (a warm-up) if there are others."""

    seconds: float = 0.0
    images: int = 0
    evaluations: int = 0
    warm_up: tuple[float, int] = (0.0, 0)

    def add(self, seconds: float, images: int) -> None:
        """Adds the cost of a batch."""
        if self.warm_up[1] == 0:
            self.warm_up = (seconds, images)
        else:
            self.seconds += seconds
            self.images += images

    @property
    def seconds_per_image(self) -> float:
        """The seconds per image on one device."""
        seconds, images = (self.seconds, self.images) if self.images else self.warm_up
        return seconds / max(images, 1)


@contextmanager
def counted_evaluations(denoiser: nn.Module, cost: Cost) -> Iterator[None]:
    """Counts, inside the context, how many images the denoiser's network evaluates."""

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        cost.evaluations += len(inputs[0])

    handle = denoiser.network.register_forward_pre_hook(count)  # type: ignore[union-attr]
    try:
        yield
    finally:
        handle.remove()
