"""The pieces of work that benchmarks/speed.py measures."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring.ours import BareLoop, OurTraining, data_words, our_network
from measuring.peers import PEERS, Missing, Task
from measuring.roofline import kernels
from measuring.table import peak_rows, rows_of, spread
from measuring.timing import CLOCKS, Contestant, take_turns, used_device

TRAINER_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


@dataclass(frozen=True)
class Settings:
    """How the work is measured.

    rounds: in each of which all contestants take their turn. steps, batch_size: None: as the work has them.
    folder: for data and runs, which are removed in the end.
    """

    rounds: int
    steps: int | None
    batch_size: int | None
    clock: str
    precisions: tuple[str, ...]
    folder: Path


class Work(ABC):
    """A piece of work that several contestants do."""

    @abstractmethod
    def measure(self, settings: Settings) -> dict[str, Any]:
        """Returns what goes into the JSON file: title, rows, rates of the machine, and the peers that are not installed."""


@dataclass(frozen=True)
class TrainingWork(Work):
    """Training steps of a network: ours, as train.py takes them, beside the loops of the peers, in each precision.

    words: overrides that choose the network. size: channels and resolution. steps: of each contestant in a round.
    """

    words: tuple[str, ...]
    size: tuple[int, int]
    batch_size: int
    steps: int

    def measure(self, settings: Settings) -> dict[str, Any]:
        batch_size, device = settings.batch_size or self.batch_size, used_device()
        words = [*self.words, *data_words(settings.folder, *self.size, batch_size)]
        network = our_network(words, *self.size)
        task = Task(network, batch_size, CLOCKS[settings.clock], device)
        contestants, missing = peers_of(task, settings.precisions)
        for precision in settings.precisions:
            given = [*words, f"trainer.precision={TRAINER_PRECISIONS[precision]}"]
            ours = OurTraining("alphabar (train.py)", precision, given, settings.folder, batch_size, settings.clock, network)
            contestants.append(ours)
        peaks = kernels(settings.precisions, task.clock, device)
        measured = take_turns([*contestants, *peaks], settings.rounds, settings.steps or self.steps)
        num = len(contestants)
        title = f"a training step, {self.size[1]}x{self.size[1]}x{self.size[0]}, batch {batch_size}"
        return result(title, rows_of(measured[:num], measured[num:]), peak_rows(measured[num:]), missing)


def peers_of(task: Task, precisions: Sequence[str]) -> tuple[list[Contestant], list[str]]:
    """Returns the peers that are installed, in each precision, and a line for each that is not."""
    found: list[Contestant] = []
    missing = []
    for make in PEERS:
        try:
            found += [make(task, precision) for precision in precisions]
        except Missing as error:
            missing.append(f"{make.label}: {error}")
    return found, missing


@dataclass(frozen=True)
class OverheadWork(Work):
    """What the whole recipe (Lightning, log, bar, callbacks) adds to a step of a bare loop on the same network, in float32.

    words: overrides that choose the network. batch_size: of images of 8x8. steps: of each in a round, logged ones among them.
    """

    words: tuple[str, ...]
    batch_size: int
    steps: int

    def measure(self, settings: Settings) -> dict[str, Any]:
        batch_size = settings.batch_size or self.batch_size
        words = [*self.words, "recipe=digits", *data_words(settings.folder, 1, 8, batch_size)]
        bare = BareLoop(words, (1, 8), settings.clock)
        ours = OurTraining("alphabar (train.py)", "float32", words, settings.folder, batch_size, settings.clock)
        measured = take_turns([bare, ours], settings.rounds, settings.steps or self.steps)
        pairs = zip(measured[1].medians, measured[0].medians, strict=True)
        middle, low, high = spread([1e3 * (whole - alone) for whole, alone in pairs])
        note = f"  added to a step: {middle:.2f} ms ({low:.2f} to {high:.2f})"
        title = f"the whole recipe over a bare loop, 8x8, batch {batch_size}"
        return result(title, rows_of(measured, []), [], [], [note])


def result(title: str, rows: list[Any], peaks: list[Any], missing: list[str], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the result of a piece of work, as `Work.measure` does."""
    return {"title": title, "rows": rows, "peaks": peaks, "missing": missing, "notes": list(notes)}


SMALL = ("network=unet_small", "network.base_channels=32")
WORKS: dict[str, Work] = {
    "train-small": TrainingWork(SMALL, (1, 32), batch_size=16, steps=8),
    "train-cifar10": TrainingWork(("network=unet_cifar10", "network.dropout=0"), (3, 32), batch_size=8, steps=3),
    "overhead": OverheadWork(("network=unet_tiny",), batch_size=32, steps=60),
    "overhead-tiny": OverheadWork(("network=simple_unet",), batch_size=2, steps=400),
}
