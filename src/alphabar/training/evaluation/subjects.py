"""What is judged: the samples of a checkpoint, images in files, or held-out images."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from tqdm import tqdm

from alphabar.errors import UserError
from alphabar.training.data.datamodule import ImageDataModule
from alphabar.training.evaluation.files import SampleFiles, shown
from alphabar.training.generate import Generated
from alphabar.training.inference import Inference, launch
from alphabar.training.measuring import data_of, prepared


@dataclass
class Cost:
    """Of drawing images on this process. seconds: without those of the first batch, which warms up, if there are others."""

    seconds: float = 0.0
    images: int = 0
    evaluations: int = 0
    warm_up: tuple[float, int] = (0.0, 0)

    def add(self, seconds: float, images: int) -> None:
        """Counts a batch."""
        if self.warm_up[1] == 0:
            self.warm_up = (seconds, images)
        else:
            self.seconds += seconds
            self.images += images

    @property
    def seconds_per_image(self) -> float:
        """On one device."""
        seconds, images = (self.seconds, self.images) if self.images else self.warm_up
        return seconds / max(images, 1)


class Subject(ABC):
    """Images, and the real ones that they should look like."""

    data: ImageDataModule

    @abstractmethod
    def start(self) -> Fabric:
        """The processes, and a folder that is claimed. Raises UserError, before anything is written, for what is no good."""

    @abstractmethod
    def open(self) -> ImageDataModule:
        """The real images, after `start`. Raises UserError if they are not at hand."""

    @property
    @abstractmethod
    def num(self) -> int:
        """How many images."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What they are, in the names of figures: "ema-ddim50"."""

    @property
    @abstractmethod
    def is_real(self) -> bool:
        """Whether they are themselves the floor."""

    @abstractmethod
    def shares(self, seed: int) -> Iterator[Generated]:
        """This process's share of the images."""

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """What of it must be equal where figures are compared."""

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What it is."""

    @abstractmethod
    def costs(self) -> Mapping[str, float]:
        """What an image takes."""


@dataclass
class OfCheckpoint(Subject):
    """Samples that are drawn. data_root: where the real images lie now."""

    inference: Inference
    data_root: str | None
    cost: Cost = field(default_factory=Cost)

    def start(self) -> Fabric:
        self.fabric, self.loaded, self.generation = self.inference.start()
        return self.fabric

    def open(self) -> ImageDataModule:
        self.data = data_of(self.loaded, self.data_root, self.fabric)
        return self.data

    @property
    def num(self) -> int:
        return self.inference.num

    @property
    def label(self) -> str:
        return f"{self.inference.weights_label}-{self.inference.sampler.label(self.loaded.module.denoiser.schedule)}"

    @property
    def is_real(self) -> bool:
        return False

    def shares(self, seed: int) -> Iterator[Generated]:
        generation = replace(self.generation, seed=seed)
        with counted(self.loaded.module.denoiser, self.cost):
            images = self.inference.images(self.fabric, self.loaded, generation)
            while (part := self._next(images)) is not None:
                yield part

    def _next(self, images: Iterator[Generated]) -> Generated | None:
        begin = self._clock()
        part = next(images, None)
        if part is not None:
            self.cost.add(self._clock() - begin, self.generation.batch_size)
        return part

    def _clock(self) -> float:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)
        return time.perf_counter()

    def protocol(self) -> Mapping[str, Any]:
        return {
            "images": "samples of a checkpoint",
            "weights": self.inference.weights_label,
            "sampler": self.inference.sampler,
            "guidance": None,
            "precision": self.inference.precision,
        }

    def identity(self) -> Mapping[str, Any]:
        return self.inference.identity(self.loaded.step)

    def costs(self) -> Mapping[str, float]:
        drawn = max(self.cost.images + self.cost.warm_up[1], 1)
        return {"network_evaluations": self.cost.evaluations / drawn, "seconds_per_image": self.cost.seconds_per_image}


class counted:
    """Inside, counts how many images the denoiser's network looks at."""

    def __init__(self, denoiser: nn.Module, cost: Cost) -> None:
        self.denoiser, self.cost = denoiser, cost

    def __enter__(self) -> None:
        def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.cost.evaluations += len(inputs[0])

        self.handle = self.denoiser.network.register_forward_pre_hook(count)  # type: ignore[union-attr]

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


@dataclass
class OfFiles(Subject):
    """Images that lie there already."""

    path: str
    files: SampleFiles
    data: ImageDataModule
    chosen: int | None
    batch_size: int
    run_dir: str
    devices: tuple[str, int | str]

    def start(self) -> Fabric:
        shape = self.data.shape
        need = (shape.channels, shape.resolution, shape.resolution)
        if self.files.size != need:
            raise UserError(f"samples={self.path}: need images of {shown(need)}, as the real ones, got {shown(self.files.size)}")
        if self.num > len(self.files):
            raise UserError(f"num={self.num}: there are {len(self.files)} images in samples={self.path}")
        self.fabric = launch(self.run_dir, *self.devices)
        return self.fabric

    def open(self) -> ImageDataModule:
        return prepared(self.data, self.fabric)

    @property
    def num(self) -> int:
        return len(self.files) if self.chosen is None else self.chosen

    @property
    def label(self) -> str:
        return "samples"

    @property
    def is_real(self) -> bool:
        return False

    def shares(self, seed: int) -> Iterator[Generated]:
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        quiet = True if rank else None  # None: where there is no terminal
        with tqdm(desc="looking at samples", total=self.num, unit="img", delay=2, leave=False, disable=quiet) as bar:
            for indices, images in self.files.batches(self.num, self.batch_size, rank, world_size):
                yield Generated(indices, images, torch.ones(len(images), dtype=torch.bool))
                bar.update(len(images) * world_size)

    def protocol(self) -> Mapping[str, Any]:
        return {"images": "files"}

    def identity(self) -> Mapping[str, Any]:
        return {"samples": self.path}

    def costs(self) -> Mapping[str, float]:
        return {}


@dataclass
class OfHeldOut(Subject):
    """Real images that were never trained on: what a perfect model would reach."""

    data: ImageDataModule
    chosen: int | None
    run_dir: str
    devices: tuple[str, int | str]

    def start(self) -> Fabric:
        self.fabric = launch(self.run_dir, *self.devices)
        return self.fabric

    def open(self) -> ImageDataModule:
        prepared(self.data, self.fabric)
        available = len(self.data.held_out_set)
        if available == 0 or (self.chosen or 0) > available:
            raise UserError(f"data: it has {available} held-out images" + (f", fewer than num={self.chosen}" if available else ""))
        return self.data

    @property
    def num(self) -> int:
        return len(self.data.held_out_set) if self.chosen is None else self.chosen

    @property
    def label(self) -> str:
        return "heldout"

    @property
    def is_real(self) -> bool:
        return True

    def shares(self, seed: int) -> Iterator[Generated]:
        return iter(())

    def protocol(self) -> Mapping[str, Any]:
        return {"images": "held-out"}

    def identity(self) -> Mapping[str, Any]:
        return {"images": "held-out"}

    def costs(self) -> Mapping[str, float]:
        return {}
