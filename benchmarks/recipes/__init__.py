"""Recipes of several tools for `equal_time.py`, each as the tool's own documents give it: network, training and sampler.

`python -m recipes TOOL TASK.json LAUNCHED` trains by one of them in this process. What a tool imports, its recipe imports inside
`train`, so that the start-up of one tool has nothing of another.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from measuring.timing import now, used_device
from torch import Tensor, nn

Batch = TypeVar("Batch")
MAX_BATCH = 125  # images that are drawn at a time


@dataclass(frozen=True)
class Task:
    """The task, the same for all tools.

    words: those of train.py that choose the data. images: a folder with the training images as PNG. channels, height, width: of an
    image. flip: whether images are mirrored at random. seconds: the time of training. num: the number of samples. evaluations: the
    network evaluations of an image, for tools whose own sampler takes more; 0 for the tool's own number. unet: the arguments of the
    UNet2DModel of diffusers that is the network of train.py, None if there is none. folder: where the tool may leave files.
    """

    words: tuple[str, ...]
    images: str
    channels: int
    height: int
    width: int
    flip: bool
    seconds: float
    seed: int
    num: int
    evaluations: int
    threads: int
    unet: dict[str, Any] | None
    folder: str


@dataclass(frozen=True)
class Trained:
    """The result of a recipe.

    first_step: when the first step began, as `time.time()`. seconds: from there to the end of the last step. draw: returns so many
    images, uint8 [num, C, H, W] on the CPU, `batch_size` at a time. settings: what differs between tools, in words.
    """

    network: nn.Module
    steps: int
    images_per_step: int
    first_step: float
    seconds: float
    sampler: str
    settings: str
    draw: Callable[[int], Tensor]


class Recipe(ABC):
    """The recipe of a tool.

    packages: the modules that it imports, each with its name on PyPI. takes_our_network: whether it trains a network like that of
    train.py.
    """

    packages: dict[str, str] = {}
    takes_our_network = False

    @abstractmethod
    def train(self, task: Task) -> Trained:
        """Trains for the time of the task, in a process of its own."""


class TimeLimit:
    """Deals batches to a training loop, those of whole steps, until `seconds` have passed since the first step.

    first_step: when it began, which is when the first batch was there, as `time.time()`. elapsed: the seconds from there to the end
    of the newest step.
    """

    def __init__(self, seconds: float, batches_per_step: int = 1) -> None:
        self.seconds = seconds
        self.batches_per_step = batches_per_step
        self.first_step = 0.0
        self.elapsed = 0.0
        self.device = used_device()

    def batches(self, source: Iterable[Batch]) -> Iterator[Batch]:
        """Yields batches until the time is over."""
        iterator = iter(source)
        batch = next(iterator)
        self.first_step, begin = time.time(), now(time.perf_counter, self.device)
        while self.elapsed < self.seconds:
            for _ in range(self.batches_per_step):
                yield batch
                self.elapsed = now(time.perf_counter, self.device) - begin
                batch = next(iterator)


@contextmanager
def counted_evaluations(network: nn.Module) -> Iterator[list[int]]:
    """Yields a list with one number, of the images that the network evaluates inside the context."""
    evaluations = [0]

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        evaluations[0] += len(inputs[0])

    handle = network.register_forward_pre_hook(count)
    try:
        yield evaluations
    finally:
        handle.remove()


def batch_size(num: int) -> int:
    """Returns how many of `num` images are drawn at a time, so that all batches are about as large."""
    return math.ceil(num / math.ceil(num / MAX_BATCH))


def in_batches(draw: Callable[[int, int], Tensor], num: int) -> Tensor:
    """Returns `num` images, uint8 on the CPU, of a function that draws so many in 0..1 with so large a seed."""
    size = batch_size(num)
    parts = [draw(min(size, num - first), first) for first in range(0, num, size)]
    return torch.cat([(part * 255).round().clamp(0, 255).to("cpu", torch.uint8) for part in parts])
