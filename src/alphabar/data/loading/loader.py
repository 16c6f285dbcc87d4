"""Batches in a `BatchOrder`, from wherever training was interrupted."""

import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alphabar.data import ImageSet
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.loading.order import BatchOrder, Places
from alphabar.errors import UserError, WorkerError, traceback_of
from alphabar.runs.checkpoints.restored import must_be_like
from alphabar.runs.processes.parent import be_killed_with

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]


class BatchSource(ABC):
    """Makes batches of images, of latents or of both."""

    @abstractmethod
    def batch(self, places: Places) -> Batch:
        """Returns the batch of the images at `places` with their metadata, mirrored and cropped as they say."""


@dataclass(frozen=True)
class ImageBatches(BatchSource):
    """Batches of the images themselves: "image" uint8 or uint16 [B, C, H, W]."""

    images: ImageSet

    def batch(self, places: Places) -> Batch:
        indices, flips, crops = places
        batch = self.images.training_batch(indices, crops)
        if flips is not None:
            both = MirroredBatches(ResidentImages(batch["image"], None).with_mirrored())
            batch["image"] = both.batch(Places(torch.arange(len(flips), device=flips.device), flips))["image"]
        return batch


@dataclass(frozen=True)
class MirroredBatches(BatchSource):
    """The batches of `ImageBatches` from images that are in memory twice, so that mirroring takes no time of a batch.

    images: N images and then the same ones mirrored, as `ResidentImages.with_mirrored` returns them.
    """

    images: ResidentImages

    def batch(self, places: Places) -> Batch:
        indices, flips, _ = places
        return self.images.batch(indices if flips is None else indices + flips * (len(self.images) // 2))


@dataclass(frozen=True)
class LatentBatches(BatchSource):
    """Batches of cached latents of the N images: "latent" [B, ...], in place of the images or beside them.

    latents: [N, ...], or [2 N, ...] with those of the mirrored images after the others.
    """

    images: ImageSet
    latents: Tensor
    with_images: bool = False

    def batch(self, places: Places) -> Batch:
        indices, flips, _ = places
        rows = indices if flips is None else indices + flips * len(self.images)
        latent = self.latents.index_select(0, rows.to(self.latents.device))
        others = ImageBatches(self.images).batch(places) if self.with_images else self.images.metadata(indices)
        return {"latent": latent, **others}


class ImageLoader:
    """An iterable over the batches of `source` in the order of `order`, an epoch per `iter`, which Lightning takes as a DataLoader.

    It draws on one endless stream of batches, and its state is the number of batches that it has handed out, not the number that
    workers have prepared. So a resumed run sees the batches of an uninterrupted one even where Lightning counts epochs
    differently: after a checkpoint from `on_train_epoch_end` it trains one more batch in the epoch that had ended. Workers do not
    pause between epochs. It is no `DataLoader`, since Lightning asks for an iterator before it says which epoch it is: here nothing
    is read until the first batch is asked for.

    Lightning takes an optimizer step at the end of every epoch, however few batches it has accumulated by then, and divides each
    gradient by `accumulate_grad_batches` all the same. So an epoch here is the fewest whole steps that have as many batches as the
    images make up, and the next one begins where the stream is.

    batches_per_step: Lightning's `accumulate_grad_batches`.
    batches_per_epoch: the number of batches that Lightning takes of every epoch (`limit_train_batches`); None: all.
    num_workers: the number of processes that decode; 0: this process does.
    device: the device of the images or latents, on which the indices have to be.
    crop: whether images are cropped at random places.
    """

    def __init__(
        self,
        source: BatchSource,
        order: BatchOrder,
        flip: bool,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        pin_memory: bool = False,
        batches_per_step: int = 1,
        batches_per_epoch: int | None = None,
        crop: bool = False,
    ) -> None:
        self.source = source
        self.order = order
        self.flip = flip
        self.num_workers = num_workers
        self.device = device
        self.pin_memory = pin_memory
        self.batches_per_step = batches_per_step
        self.batches_per_epoch = batches_per_epoch
        self.crop = crop
        self.is_reading = False  # whether training waits for a batch
        self.seconds_waiting = 0.0  # that training has waited for batches
        self._num_batches = 0
        self._is_positioned = False  # whether _num_batches is known, from a checkpoint or because the stream runs
        self._stream: Iterator[Batch] | None = None

    @property
    def sampler(self) -> "ImageLoader":
        """Returns the loader itself, since Lightning looks for `set_epoch` in its sampler."""
        return self

    @property
    def num_batches_seen(self) -> int:
        """Returns the number of batches that have been handed out, in all epochs."""
        return self._num_batches

    def set_epoch(self, epoch: int) -> None:
        """Sets the position in the stream if no state was loaded, as after an epoch's end with `max_epochs` alone."""
        if not self._is_positioned:
            self._num_batches = epoch * (len(self) if self.batches_per_epoch is None else self.batches_per_epoch)

    def __len__(self) -> int:
        return math.ceil(self.order.num_batches / self.batches_per_step) * self.batches_per_step

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(len(self)):
            if self._stream is None:
                self._is_positioned = True
                self._stream = self._from_workers() if self.num_workers else self._from_this_process()
            self.is_reading = True
            begin = time.perf_counter()
            batch = next(self._stream)
            self.seconds_waiting += time.perf_counter() - begin
            self.is_reading = False
            self._num_batches += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"num_batches": self._num_batches, "order": self.order.settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        place, now = "checkpoint: its data", self.state_dict()["order"]
        must_be_like(state, {"num_batches": 0, "order": {}}, place)
        before, needed = state["order"], ("batch_size", "world_size")
        must_be_like(before, {key: now[key] for key in now if key in before or key in needed}, f"{place}.order")
        for key in needed:
            if before[key] < 1:
                raise UserError(f"{place}.order.{key} is {before[key]}, need 1 or more")
        changed = [f"{key} was {before[key]}, is {now[key]}" for key in now if before.get(key, now[key]) != now[key]]
        if changed:
            log.warning("training goes on with other batches than an uncut run would see: %s", "; ".join(changed))
        num_images = state["num_batches"] * before["batch_size"] * before["world_size"]
        self._num_batches = num_images // self.order.global_batch_size
        self._is_positioned = True
        self._stream = None

    def close(self) -> None:
        """Ends the workers."""
        self._stream = None

    def _from_this_process(self) -> Iterator[Batch]:
        for places in self.order.batches(self._num_batches, self.flip, self.device, self.crop):
            yield self.source.batch(places)

    def _from_workers(self) -> Iterator[Batch]:
        workers = DataLoader(
            _BatchDataset(self.source),
            sampler=_BatchPlaces(self.order, self._num_batches, self.flip, self.crop),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # without one, it would draw from the global stream
            worker_init_fn=_start_worker if self.num_workers else None,
        )
        for batch in workers:
            if isinstance(batch, UserError | WorkerError):
                raise batch
            yield batch


def _start_worker(worker: int) -> None:
    """Makes a worker end with the process that forked it, also where it is in the middle of something.

    With the start method forkserver, that process is a server, which ends with this run.
    """
    be_killed_with(os.getppid())


class _BatchPlaces:
    """The endless order as numpy arrays, since each tensor sent to a worker would take a file descriptor."""

    def __init__(self, order: BatchOrder, start: int, flip: bool, crop: bool) -> None:
        self.order, self.start, self.flip, self.crop = order, start, flip, crop

    def __iter__(self) -> Iterator[list[np.ndarray | None]]:
        for places in self.order.batches(self.start, self.flip, crop=self.crop):
            yield [None if values is None else values.numpy() for values in places]


class _BatchDataset(Dataset[Any]):
    """The dataset of a worker process, whose item is one whole batch."""

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __getitem__(self, places: list[np.ndarray | None]) -> Batch | UserError | WorkerError:
        indices, flips, crops = (None if values is None else torch.from_numpy(values) for values in places)
        assert indices is not None
        try:
            return self.source.batch(Places(indices, flips, crops))
        except UserError as error:  # raised in the worker, its one line would arrive as a traceback
            return error
        except Exception as error:  # likewise, as a traceback within a traceback
            message = f"{type(error).__name__} in a process that decodes images: {error}"
            return WorkerError(message, traceback_of(error))
