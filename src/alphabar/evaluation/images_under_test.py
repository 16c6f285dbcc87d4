"""The images that are evaluated: the samples of a checkpoint, images in files, or held-out images."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.evaluation.cost import Cost, counted
from alphabar.evaluation.files import SampleFiles, shown
from alphabar.runs.distributed import raise_together
from alphabar.sampling.conditions import dataset_conditions, evaluation_images, null_conditions
from alphabar.sampling.inference import Inference, launch, short_hash
from alphabar.sampling.prepare import load_data, prepare
from alphabar.sampling.sampling_job import Generated


class ImagesUnderTest(ABC):
    """The images that are evaluated, and the real images that they are compared with."""

    data: ImageDataModule

    @abstractmethod
    def start(self) -> Fabric:
        """Starts the processes and claims the folder. Raises UserError for bad settings before anything is written."""

    @abstractmethod
    def open(self) -> ImageDataModule:
        """Returns the real images; called after `start`. Raises UserError if they are not available."""

    @property
    @abstractmethod
    def num(self) -> int:
        """The number of images."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The description of the images in the names of figures, such as "ema-ddim50"."""

    @property
    @abstractmethod
    def is_real(self) -> bool:
        """Whether the images are real, so that their figures are themselves the floor."""

    @abstractmethod
    def shares(self, seed: int) -> Iterator[Generated]:
        """Yields this process's share of the images."""

    @abstractmethod
    def facts(self, indices: Tensor) -> Mapping[str, Tensor]:
        """Returns the conditions of the images of int64 indices [B]: "label" for classes, "caption" for captions or images."""

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """Returns the settings that must be equal for figures to be compared."""

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Returns the identity of the images for receipts."""

    @abstractmethod
    def costs(self) -> Mapping[str, float]:
        """Returns the cost per image."""


@dataclass
class CheckpointSamples(ImagesUnderTest):
    """Samples that are drawn from a checkpoint."""

    inference: Inference
    cost: Cost = field(default_factory=Cost)

    def start(self) -> Fabric:
        self.fabric, self.loaded = self.inference.start(self.inference.must_draw)
        conditions = null_conditions(self.loaded.first.model.conditioner)
        self.job = self.inference.job(self.fabric, self.loaded, conditions, self.num)
        return self.fabric

    def open(self) -> ImageDataModule:
        self.data = load_data(self.loaded, self.inference.data_root, self.fabric)
        self._check_conditions()
        return self.data

    def _check_conditions(self) -> None:
        """Raises UserError unless the first model can be conditioned on these data, which it may not have been trained on."""
        conditioner, classes = self.loaded.first.model.conditioner, self.data.classes
        if conditioner.classes and classes is not None and len(classes) != len(conditioner.classes):
            which = "stages: the first" if self.loaded.before else "checkpoint: this model"
            raise UserError(f"{which} was trained on {len(conditioner.classes)} classes, these data have {len(classes)}")
        try:
            dataset_conditions(conditioner, self._condition_images)([0])
        except ValueError as error:
            which = "stages: the first" if self.loaded.before else "checkpoint: this model"
            raise UserError(f"{which} cannot be conditioned on these data: {error}") from error

    @property
    def _condition_images(self) -> ImageSet:
        return evaluation_images(self.loaded.first.model.conditioner, self.data)

    @property
    def num(self) -> int:
        return self.inference.num

    @property
    def label(self) -> str:
        return self.inference.label(self.loaded)

    @property
    def is_real(self) -> bool:
        return False

    def shares(self, seed: int) -> Iterator[Generated]:
        conditions = dataset_conditions(self.loaded.first.model.conditioner, self._condition_images)
        with ExitStack() as stack:
            for each in self.loaded.chain:
                stack.enter_context(counted(each.model.denoiser, self.cost))
            images = self.inference.images(self.fabric, self.loaded, conditions, seed)
            while (part := self._next(images)) is not None:
                yield part

    def _next(self, images: Iterator[Generated]) -> Generated | None:
        begin = self._clock()
        part = next(images, None)
        if part is not None:
            self.cost.add(self._clock() - begin, self.job.batch_size)
        return part

    def _clock(self) -> float:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)
        return time.perf_counter()

    def facts(self, indices: Tensor) -> Mapping[str, Tensor]:
        depicts = self.loaded.first.model.conditioner.depicts
        known = {} if depicts is None else self._condition_images.metadata(indices % len(self._condition_images))
        return {name: ids for name, ids in known.items() if name == depicts}

    def protocol(self) -> Mapping[str, Any]:
        return {
            "images": "samples of a checkpoint",
            "weights": {"which": self.inference.weights_label, "average": self._average()},
            "sampler": self.inference.sampler_for(self.loaded),
            "guidance": self.inference.guidance,
            "precision": self.inference.precision,
            **({"told": "held-out"} if self._condition_images is self.data.held_out_set else {}),
            **({"stages": [short_hash(Path(path)) for path in self.inference.stages]} if self.loaded.before else {}),
        }

    def _average(self) -> Mapping[str, Any] | None:
        """Returns how the weights were averaged, as the run was configured; None for raw weights."""
        if self.inference.weights == "raw":
            return None
        if self.inference.ema_length is not None or self.inference.ema_decay is not None:
            return {"length": self.inference.ema_length, "decay": self.inference.ema_decay}
        settings: Any = OmegaConf.to_container(self.loaded.config.callbacks.ema)
        return {"name": str(settings.pop("_target_", "")).rpartition(".")[2], **settings}

    def identity(self) -> Mapping[str, Any]:
        stages = [
            {"checkpoint": path, "sha256": short_hash(Path(path)), "step": each.step}
            for path, each in zip(self.inference.stages, self.loaded.before, strict=True)
        ]
        return {**self.inference.identity(self.loaded.step), **({"stages": stages} if stages else {})}

    def costs(self) -> Mapping[str, float]:
        drawn = max(self.cost.images + self.cost.warm_up[1], 1)
        return {"network_evaluations": self.cost.evaluations / drawn, "seconds_per_image": self.cost.seconds_per_image}


@dataclass
class SamplesInFiles(ImagesUnderTest):
    """Images that exist in files."""

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
        return prepare(self.data, self.fabric)

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
        quiet = True if rank else None  # None: the bar is hidden if there is no terminal
        error: UserError | None = None
        with tqdm(desc="looking at samples", total=self.num, unit="img", delay=2, leave=False, disable=quiet) as bar:
            try:
                for indices, images in self.files.batches(self.num, self.batch_size, rank, world_size):
                    yield Generated(indices, images, torch.ones(len(images), dtype=torch.bool))
                    bar.update(len(images) * world_size)
            except UserError as complaint:
                error = complaint
        raise_together(error)

    def facts(self, indices: Tensor) -> Mapping[str, Tensor]:
        return {}

    def protocol(self) -> Mapping[str, Any]:
        return {"images": "files"}

    def identity(self) -> Mapping[str, Any]:
        return {"samples": self.path}

    def costs(self) -> Mapping[str, float]:
        return {}


@dataclass
class HeldOutImages(ImagesUnderTest):
    """Real images that were not trained on, whose figures are those of a perfect model."""

    data: ImageDataModule
    chosen: int | None
    run_dir: str
    devices: tuple[str, int | str]

    def start(self) -> Fabric:
        self.fabric = launch(self.run_dir, *self.devices)
        return self.fabric

    def open(self) -> ImageDataModule:
        prepare(self.data, self.fabric)
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

    def facts(self, indices: Tensor) -> Mapping[str, Tensor]:
        return {}

    def protocol(self) -> Mapping[str, Any]:
        return {"images": "held-out"}

    def identity(self) -> Mapping[str, Any]:
        return {"images": "held-out"}

    def costs(self) -> Mapping[str, float]:
        return {}
