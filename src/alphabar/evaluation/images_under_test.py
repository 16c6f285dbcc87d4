"""The images that are evaluated: the samples of a checkpoint, images in files, or held-out images."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.evaluation.cost import Cost, counted_evaluations
from alphabar.evaluation.files import SampleFiles, format_size
from alphabar.progress import show_progress
from alphabar.runs.processes.distributed import raise_together
from alphabar.sampling.conditions import dataset_conditions, dataset_targets, evaluation_images, null_conditions
from alphabar.sampling.inference import Inference
from alphabar.sampling.pipeline import launch, start_pipeline
from alphabar.sampling.prepare import load_data, prepare_data
from alphabar.sampling.sampling_job import SampleBatch


class Description(NamedTuple):
    """The description of the evaluated images.

    label: in the names of figures, such as "ema-ddim50". protocol: the settings that must be equal for figures to be compared.
    identity: which images they are, for receipts. costs: the cost per image. run: what a receipt says of the start.
    """

    label: str
    protocol: Mapping[str, Any]
    identity: Mapping[str, Any]
    costs: Mapping[str, float] = {}
    run: Mapping[str, Any] = {}


class ImagesUnderTest(ABC):
    """The images that are evaluated, and the real images that they are compared with.

    is_real: whether the images are real, so that their figures are themselves the floor.
    """

    data: ImageDataModule
    is_real: ClassVar[bool]

    @abstractmethod
    def start(self) -> Fabric:
        """Starts the processes and claims the folder. Raises UserError for bad settings before anything is written."""

    @abstractmethod
    def open(self, reads_captions: bool) -> ImageDataModule:
        """Returns the real images; called after `start`. Raises UserError if they are not available.

        reads_captions: whether the features compare images with captions.
        """

    @property
    @abstractmethod
    def num(self) -> int:
        """The number of images."""

    @abstractmethod
    def batches(self, seed: int) -> Iterator[SampleBatch]:
        """Yields this process's share of the images."""

    @abstractmethod
    def targets(self, indices: Tensor) -> Mapping[str, Tensor]:
        """Returns the conditions of the images of int64 indices [B]: "label" for classes, "caption" for captions or images."""

    @abstractmethod
    def describe(self) -> Description:
        """Returns the description of the images; called when all of them have been measured."""


@dataclass
class CheckpointSamples(ImagesUnderTest):
    """Samples that are drawn from a checkpoint."""

    is_real = False
    inference: Inference
    cost: Cost = field(default_factory=Cost)

    def start(self) -> Fabric:
        self.fabric, self.pipeline = start_pipeline(self.inference)
        self.loaded = self.pipeline.loaded
        conditions = null_conditions(self.loaded.first.model.conditioner)
        self.job = self.pipeline.job(conditions, self.num, num_devices=self.fabric.world_size)
        return self.fabric

    def open(self, reads_captions: bool) -> ImageDataModule:
        self.data = load_data(self.loaded, self.inference.data_root, self.fabric, reads_captions)
        self._check_conditions()
        return self.data

    def _check_conditions(self) -> None:
        """Raises UserError unless the first model can be conditioned on these data, which it may not have been trained on."""
        conditioner, classes = self.loaded.first.model.conditioner, self.data.classes
        which = "stages: the first" if self.loaded.upstream else "checkpoint: this model"
        if conditioner.classes and classes is not None:
            if len(classes) != len(conditioner.classes):
                raise UserError(f"{which} was trained on {len(conditioner.classes)} classes, these data have {len(classes)}")
            for there, here in zip(conditioner.classes, classes, strict=True):
                if there != here and not there.isdecimal():  # a model of an earlier version knows but the numbers
                    raise UserError(f"{which} was trained on other classes: the class {there} is {here} in these data")
        try:
            dataset_conditions(conditioner, self._condition_images)([0])
        except ValueError as error:
            raise UserError(f"{which} cannot be conditioned on these data: {error}") from error

    @property
    def _condition_images(self) -> ImageSet:
        return evaluation_images(self.loaded.first.model.conditioner, self.data)

    @property
    def num(self) -> int:
        return self.inference.num

    def batches(self, seed: int) -> Iterator[SampleBatch]:
        conditions = dataset_conditions(self.loaded.first.model.conditioner, self._condition_images)
        with ExitStack() as stack:
            for stage in self.loaded.cascade:
                stack.enter_context(counted_evaluations(stage.model.denoiser, self.cost))
            batches = self.pipeline.images(self.fabric, conditions, seed)
            while (batch := self._next(batches)) is not None:
                yield batch

    def _next(self, batches: Iterator[SampleBatch]) -> SampleBatch | None:
        """Returns the next batch, whose cost it adds, or None after the last one."""
        begin = self._clock()
        batch = next(batches, None)
        if batch is not None:
            self.cost.add(self._clock() - begin, self.job.batch_size)
        return batch

    def _clock(self) -> float:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)
        return time.perf_counter()

    def targets(self, indices: Tensor) -> Mapping[str, Tensor]:
        return dataset_targets(self.loaded.first.model.conditioner, self._condition_images, indices)

    def describe(self) -> Description:
        inference, run = self.inference, self.pipeline.record()
        *stages, last = run["checkpoints"]
        protocol = {
            "images": "samples of a checkpoint",
            "weights": {"which": inference.weights_label, "average": self._average()},
            "sampler": self.pipeline.sampler,
            "guidance": inference.guidance,
            "precision": inference.speed.precision + ", TF32" * (inference.speed.tf32 and self.fabric.device.type == "cuda"),
            **({"told": "held-out"} if self._condition_images is self.data.held_out_set else {}),
            **({"stages": [stage["sha256"] for stage in stages]} if stages else {}),
        }
        identity = {**last, **({"stages": stages} if stages else {})}
        num_drawn = max(self.cost.images + self.cost.warm_up[1], 1)
        costs = {"network_evaluations": self.cost.evaluations / num_drawn, "seconds_per_image": self.cost.seconds_per_image}
        return Description(self.pipeline.label, protocol, identity, costs, run)

    def _average(self) -> Mapping[str, Any] | None:
        """Returns the configuration of the average of the weights, or None for raw weights."""
        if self.inference.weights == "raw":
            return None
        if self.inference.ema_length is not None or self.inference.ema_decay is not None:
            return {"length": self.inference.ema_length, "decay": self.inference.ema_decay}
        settings: Any = OmegaConf.to_container(self.loaded.config.callbacks.ema)
        return {"name": str(settings.pop("_target_", "")).rpartition(".")[2], **settings}


@dataclass
class SamplesInFiles(ImagesUnderTest):
    """Images that exist in files."""

    is_real = False
    path: str
    files: SampleFiles
    data: ImageDataModule
    num_wanted: int | None
    inference: Inference

    def start(self) -> Fabric:
        size = self.data.shape
        if self.files.size != size:
            raise UserError(
                f"samples={self.path}: need images of {format_size(size)}, as the real ones, got {format_size(self.files.size)}"
            )
        if self.num > len(self.files):
            raise UserError(f"num={self.num}: there are {len(self.files)} images in samples={self.path}")
        self.fabric = launch(self.inference)
        return self.fabric

    def open(self, reads_captions: bool) -> ImageDataModule:
        return prepare_data(self.data, self.fabric, reads_captions)

    @property
    def num(self) -> int:
        return len(self.files) if self.num_wanted is None else self.num_wanted

    def batches(self, seed: int) -> Iterator[SampleBatch]:
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        error: UserError | None = None
        with show_progress("looking at samples", self.num, "img", rank == 0) as bar:
            try:
                for indices, images in self.files.batches(self.num, self.inference.images_at_a_time, rank, world_size):
                    yield SampleBatch(indices, images, torch.ones(len(images), dtype=torch.bool))
                    bar.update(len(images) * world_size)
            except UserError as raised:
                error = raised
        raise_together(error)

    def targets(self, indices: Tensor) -> Mapping[str, Tensor]:
        return {}

    def describe(self) -> Description:
        return Description("samples", {"images": "files"}, {"samples": self.path})


@dataclass
class HeldOutImages(ImagesUnderTest):
    """Real images that were not trained on, whose figures are those of a perfect model."""

    is_real = True
    data: ImageDataModule
    num_wanted: int | None
    inference: Inference

    def start(self) -> Fabric:
        self.fabric = launch(self.inference)
        return self.fabric

    def open(self, reads_captions: bool) -> ImageDataModule:
        prepare_data(self.data, self.fabric, reads_captions)
        available = len(self.data.held_out_set)
        if available == 0 or (self.num_wanted or 0) > available:
            reason = f", fewer than num={self.num_wanted}" if available else ""
            raise UserError(f"data: it has {available} held-out images{reason}")
        return self.data

    @property
    def num(self) -> int:
        return len(self.data.held_out_set) if self.num_wanted is None else self.num_wanted

    def batches(self, seed: int) -> Iterator[SampleBatch]:
        return iter(())

    def targets(self, indices: Tensor) -> Mapping[str, Tensor]:
        return {}

    def describe(self) -> Description:
        return Description("heldout", {"images": "held-out"}, {"images": "held-out"})
