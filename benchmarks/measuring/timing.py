"""Times of things that take turns, and their ratios: a machine drifts, and only what was measured side by side compares."""

import gc
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def used_device() -> torch.device:
    """Returns the device that a run uses by default: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now(clock: Clock, device: torch.device) -> float:
    """Returns the time in seconds at which the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


class Moments:
    """The ends of pieces of work in a row, and the seconds between them.

    Between the two ends of the row nobody waits for a GPU, as a run does not, so that all pieces of work in it have their mean.
    """

    def __init__(self, clock: Clock, device: torch.device, num: int) -> None:
        self.clock, self.device, self.num, self.ended = clock, device, num, 0
        self.moments = [now(clock, device)]

    def end(self) -> None:
        """Notes that a piece of work has been given to the device."""
        self.ended += 1
        if self.device.type != "cuda" or self.is_complete:
            self.moments.append(now(self.clock, self.device))

    @property
    def is_complete(self) -> bool:
        """Returns whether all pieces of work are done."""
        return self.ended == self.num

    @property
    def times(self) -> list[float]:
        """Returns the seconds of each piece of work, or on a GPU their mean alone."""
        pieces = self.num / (len(self.moments) - 1)
        return [(end - begin) / pieces for begin, end in pairwise(self.moments)]


@dataclass(frozen=True)
class GlobalSettings:
    """Settings of torch that hold for the whole process, which one contestant must not leave to the next."""

    threads: int = field(default_factory=torch.get_num_threads)
    matmul_precision: str = field(default_factory=torch.get_float32_matmul_precision)
    cudnn_benchmark: bool = field(default_factory=lambda: torch.backends.cudnn.benchmark)

    def restore(self) -> None:
        """Sets what was set when this was made."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul_precision)  # as speed=auto sets it: torch refuses a mixture of its two ways
        torch.backends.cudnn.benchmark = self.cudnn_benchmark


class Contestant(ABC):
    """Something that does a piece of work again and again.

    label: its name in the table. precision: the one that it computes in, "float32" or "bfloat16".
    images: the number of images in a piece of work.
    """

    label: str
    precision: str
    images: int

    @abstractmethod
    def times(self, num: int) -> list[float]:
        """Returns the seconds of each of `num` pieces of work in a row, or their mean alone, after some that warm up."""

    @property
    def parameters(self) -> int | None:
        """Returns the number of parameters of its network, or None if that says nothing."""
        return None

    @property
    def gflop(self) -> float | None:
        """Returns the GFLOP that an image takes, or None if nobody has counted."""
        return None

    @property
    def remark(self) -> str:
        """Returns what differs from the others, or "" if nothing does."""
        return ""


class Loop(Contestant):
    """A contestant that is one call, of which the first `warm_up` do not count."""

    warm_up = 2

    def __init__(self, clock: Clock, device: torch.device) -> None:
        self.clock, self.device = clock, device

    @abstractmethod
    def act(self) -> None:
        """Does one piece of work."""

    def times(self, num: int) -> list[float]:
        for _ in range(self.warm_up):
            self.act()
        moments = Moments(self.clock, self.device, num)
        for _ in range(num):
            self.act()
            moments.end()
        return moments.times


class Call(Loop):
    """A contestant that is a function without arguments; see `Contestant` for the others."""

    warm_up = 1

    def __init__(
        self,
        label: str,
        precision: str,
        images: int,
        function: Callable[[], object],
        clock: Clock,
        gflop: float | None = None,
        remark: str = "",
    ) -> None:
        super().__init__(clock, used_device())
        self.label, self.precision, self.images, self.function = label, precision, images, function
        self._gflop, self._remark = gflop, remark

    @property
    def gflop(self) -> float | None:
        return self._gflop

    @property
    def remark(self) -> str:
        return self._remark

    def act(self) -> None:
        self.function()


@dataclass
class Measured:
    """The seconds of each piece of work of a contestant, by round."""

    contestant: Contestant
    rounds: list[list[float]] = field(default_factory=list)

    @cached_property
    def medians(self) -> list[float]:
        """Returns the median of each round."""
        return [statistics.median(times) for times in self.rounds]

    @property
    def means(self) -> list[float]:
        """Returns the mean of each round, in which what happens now and then counts."""
        return [statistics.fmean(times) for times in self.rounds]

    def ratios(self, reference: "Measured") -> list[float]:
        """Returns how many times as fast as the reference it was, in each round; more images in a piece of work count."""
        share = self.contestant.images / reference.contestant.images
        return [share * theirs / own for own, theirs in zip(self.medians, reference.medians, strict=True)]


def take_turns(contestants: Sequence[Contestant], rounds: int, num: int) -> list[Measured]:
    """Returns what was measured of contestants that took turns, `rounds` times, with `num` pieces of work each."""
    settings, found = GlobalSettings(), [Measured(each) for each in contestants]
    for _ in range(rounds):
        for measured in found:
            gc.collect()
            measured.rounds.append(measured.contestant.times(num))
            settings.restore()
    return found
