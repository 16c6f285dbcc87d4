"""The LightningDataModule of a source of images."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import LightningDataModule
from torch import Tensor

from alphabar.bits import Bits
from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.folders.folder_layout import abbreviated
from alphabar.data.image_sets.bucket_choice import Size, choose_buckets, common_factor
from alphabar.data.image_sets.buckets import BucketedImages, image_sizes
from alphabar.data.image_sets.decoded import DecodedImages
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.loading.bucket_order import BucketOrder
from alphabar.data.loading.loader import BatchSource, ImageBatches, ImageLoader, LatentBatches, MirroredBatches
from alphabar.data.loading.options import Buckets, Cropping
from alphabar.data.loading.order import BatchOrder, EpochOrder
from alphabar.errors import UserError
from alphabar.resolution import Resolution, format_resolution, resolution_of, sides

MB = 2**20
MAX_WORKERS = 8


class ImageDataModule(LightningDataModule):
    """The images of `source` as batches for training; without a Trainer, `prepare_data()` and then `train_set` are enough.

    It has to be used with `Trainer(use_distributed_sampler=False)`, since it divides the images among the processes itself.

    batch_size: the number of images in a batch of each process, as everywhere in Lightning.
    seed: the seed of the order, the flips and the crops.
    flip: whether to mirror images left to right at random; None: if the source is symmetric.
    num_workers: the number of processes that decode; None: 0, except for images that are decoded for a GPU.
    crop: whether images are cropped in their centre or, in training alone, at a random place, which means that they are decoded
        anew in every epoch.
    buckets: sizes; each training image has the one with the nearest aspect ratio and is decoded anew in every epoch; None: all have
        the shape of the source. A batch has images of one size. "auto": `choose_buckets` has to be called first.
    resident: whether to keep a split in memory, decoded, on the training device; None: if it has at most `max_resident_mb`.
    title: the name of the data in the first lines of a run; None: the name of the class.
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int = 64,
        seed: int = 0,
        flip: bool | None = None,
        num_workers: int | None = None,
        resident: bool | None = None,
        max_resident_mb: int = 1024,
        crop: Cropping = "center",
        buckets: Buckets | None = None,
        title: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"need batch_size >= 1, got {batch_size}")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"need num_workers >= 0, got {num_workers}")
        if max_resident_mb < 0:
            raise ValueError(f"need max_resident_mb >= 0, got {max_resident_mb}")
        if source.block_size and buckets is not None:
            raise ValueError("data.buckets: a stream is read in its own order, not by proportions; need null")
        if source.block_size and num_workers:
            raise ValueError(f"data.num_workers={num_workers}: threads of one process read and decode a stream, need null or 0")
        self.source = source
        self.title = type(self).__name__ if title is None else title
        self.batch_size = batch_size
        self.seed = seed
        self.flip = source.symmetric if flip is None else flip
        self.num_workers = 0 if source.block_size else num_workers
        self.resident = resident
        self.max_resident_mb = max_resident_mb
        self.crops = crop == "random"
        self.buckets: list[Size] | Literal["auto"] | None = None
        if buckets is not None:
            self.buckets = "auto" if isinstance(buckets, str) else list(dict.fromkeys(map(sides, buckets)))
        if resident and (self.crops or self.buckets):
            raise ValueError(
                "data.resident=true keeps images cropped in their centre to one size: need resident=null for data.crop=random and "
                "for data.buckets"
            )
        self._loader: ImageLoader | None = None
        self._latents: LatentBatches | None = None

    @property
    def shape(self) -> Shape:
        return self.source.shape

    @property
    def training_shapes(self) -> list[Shape]:
        """Returns the shapes that batches of training have. Raises UserError unless that of the source is among the buckets."""
        if self.buckets is None:
            return [self.shape]
        if self.buckets == "auto":
            raise UserError("data.buckets=auto: which ones depends on the network of a run; need a list of sizes")
        shapes = [Shape(self.shape.channels, *size) for size in self.buckets]
        if self.shape not in shapes:
            sizes = ", ".join(format_resolution(shape.resolution) for shape in shapes)
            size = format_resolution(self.shape.resolution)
            raise UserError(f"data.resolution={size}: need one of data.buckets, that of samples and figures: {sizes}")
        return shapes

    @property
    def bits(self) -> Bits:
        """Returns the bits per channel, see `ImageSet.bits`."""
        return self.source.bits

    @property
    def classes(self) -> tuple[str, ...] | None:
        classes = self.source.classes
        return None if classes is None else tuple(classes)

    @property
    def captions(self) -> tuple[str, ...] | None:
        captions = self.source.captions
        return None if captions is None else tuple(captions)

    @property
    def remarks(self) -> dict[str, str]:
        """Returns remarks for the user by their subjects; reads the training images if they are few."""
        remarks = dict(self.source.remarks)
        if isinstance(self.train_set, BucketedImages):
            remarks["buckets"] = self.train_set.describe()
        if self.classes is not None and self.train_set.labels is not None:
            there = set(self.train_set.labels.tolist())
            if absent := [name for label, name in enumerate(self.classes) if label not in there]:
                line = f"no image to train on of {abbreviated(absent)}"
                remarks["classes"] = "; ".join([*filter(None, [remarks.get("classes")]), line])
        return remarks

    def reason_for_none(self, subject: str) -> str:
        """Returns ": " and the remark of the source on the "classes" or "captions" that it lacks; "" if there is no remark."""
        remark = self.source.remarks.get(subject)
        return f": {remark}" if remark else ""

    def leave_out_captions(self) -> None:
        """Leaves captions out, which are not used; called before the images are asked for."""
        self.source.reads_captions = False

    @cached_property
    def train_set(self) -> ImageSet:
        if not self.crops and self.buckets is None:
            return self._loaded_if_small(self.source.train())
        if self.buckets is None:
            return self._croppable_images
        return BucketedImages(self._croppable_images, self._sizes, self.training_shapes)

    def choose_buckets(self, is_suitable: Callable[[Shape], bool]) -> list[Resolution]:
        """Returns the sizes that `data.buckets=auto` stands for, see `bucket_choice`, which are the buckets from now on.

        is_suitable: whether the network takes images of a shape. Raises UserError as `train_set` does, and if it is not to be done.
        """
        self.prepare_data()
        factor = common_factor(self.shape, is_suitable)
        found = choose_buckets(self._sizes, sides(self.shape.resolution), factor, self.batch_size)
        self.buckets = found
        return [resolution_of(*size) for size in found]

    @cached_property
    def _croppable_images(self) -> DecodedImages:
        images = self.source.train()
        if not isinstance(images, DecodedImages) or not images.can_crop:
            key, needed = ("data.crop=random", "data.crop=center") if self.crops else ("data.buckets", "data.buckets=null")
            raise UserError(f"{key}: these images are used as they are, nothing is cropped; need {needed}")
        return images

    @cached_property
    def _sizes(self) -> Tensor:
        """Returns (height, width) of each training image, int64 [N, 2]."""
        return image_sizes(self._croppable_images)

    @cached_property
    def held_out_set(self) -> ImageSet:
        return self._loaded_if_small(self.source.held_out())

    @cached_property
    def held_out_in_buckets(self) -> ImageSet:
        """Returns the held-out images, of which `training_batch` has the shapes of the buckets, if there are any."""
        images = self.held_out_set if self.buckets is None else self.source.held_out()
        if self.buckets is None or not isinstance(images, DecodedImages) or not len(images):
            return images
        return BucketedImages(images, image_sizes(images), self.training_shapes)

    @property
    def is_reading(self) -> bool:
        """Returns whether training waits for a batch."""
        return self._loader is not None and self._loader.is_reading

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if isinstance(self.train_set, BucketedImages):
                self.train_set.must_have_all_shapes()
            self._order()  # too few images are an error before anything else starts

    def use_latents(self, latents: Tensor, with_images: bool) -> None:
        """Puts latents into the batches of training in place of its images, or beside them; see `LatentBatches`."""
        self._latents = LatentBatches(self.train_set, latents, with_images)

    def train_dataloader(self) -> ImageLoader:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        if self._latents is not None and not self._latents.with_images:
            self._loader = self._latent_loader(self._latents, device)
            return self._loader
        images, home = self.train_set, torch.device("cpu")
        if isinstance(images, ResidentImages) and self._fits(images.num_bytes) and not self.num_workers:
            images, home = images.to(device), device
        streams_to_gpu = home != device
        num_workers = self._default_workers(streams_to_gpu) if self.num_workers is None else self.num_workers
        pin, source = streams_to_gpu and device.type == "cuda", self._source_of(images, num_workers)
        self._loader = ImageLoader(source, self._order(), self.flip, num_workers, home, pin, *self._steps(), self.crops)
        return self._loader

    def _source_of(self, images: ImageSet, num_workers: int) -> BatchSource:
        """Returns the source of batches; images in memory that are flipped are kept mirrored, too, if three copies of them fit."""
        if self._latents is not None:
            return LatentBatches(images, self._latents.latents, with_images=True)
        is_small = 3 * images.num_bytes <= self.max_resident_mb * MB
        if self.flip and is_small and not num_workers and isinstance(images, ResidentImages):
            return MirroredBatches(images.with_mirrored())
        return ImageBatches(images)

    def _latent_loader(self, source: LatentBatches, device: torch.device) -> ImageLoader:
        """Returns the loader of latents, which are read from memory or from one file, without workers."""
        latents = source.latents
        if self._fits(latents.numel() * latents.element_size()):
            source = LatentBatches(source.images, latents.to(device, copy=True))
        return ImageLoader(source, self._order(), self.flip, 0, "cpu", False, *self._steps())

    def teardown(self, stage: str) -> None:
        self._close()

    def on_exception(self, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._loader is not None:
            self._loader.close()

    @property
    def num_batches_seen(self) -> int:
        """Returns the number of batches that this process has been given in training, also before the run was resumed."""
        return 0 if self._loader is None else self._loader.num_batches_seen

    def batch_indices(self, number: int) -> Tensor:
        """Returns the indices [B] of the images in this process's batch `number`, counted from 0 over all epochs."""
        return next(self._order().batches(number, flip=False)).indices

    def first_batch(self) -> dict[str, Tensor]:
        """Returns this process's first batch, not mirrored, without taking it from the loader."""
        assert self._loader is not None
        return self._loader.source.batch(next(self._order().batches(0, False, self._loader.device)))

    def _order(self) -> BatchOrder:
        images, share = self.train_set, (0, 1, 0)
        if self.trainer is not None:
            share = (self.trainer.global_rank, self.trainer.world_size, int(self.trainer.overfit_batches))  # type: ignore[attr-defined]
        if isinstance(images, BucketedImages):
            return BucketOrder(images.buckets, self.batch_size, self.seed, *share)
        return EpochOrder(len(images), self.batch_size, self.seed, *share, self.source.block_size)

    def _steps(self) -> tuple[int, int]:
        """Returns the numbers of batches that an optimizer step accumulates, and that Lightning takes of every epoch.

        Raises UserError where an epoch is cut in the middle of a step, whose gradient would be too small.
        """
        assert self.trainer is not None
        per_step, limit = self.trainer.accumulate_grad_batches, self.trainer.limit_train_batches
        length = math.ceil(self._order().num_batches / per_step) * per_step
        taken = min(limit, length) if isinstance(limit, int) else int(length * limit)
        if taken % per_step:
            name = "overfit_batches" if self.trainer.overfit_batches else "limit_train_batches"  # type: ignore[attr-defined]
            raise UserError(
                f"trainer.{name}={limit}: every epoch is cut to {taken} batches, need a multiple of "
                f"trainer.accumulate_grad_batches={per_step}, so that all steps have as many"
            )
        return per_step, taken

    def _default_workers(self, streams_to_gpu: bool) -> int:
        if not streams_to_gpu:
            return 0  # on a CPU, training has all the cores: a worker would take one from it to save a few per cent of its time
        assert self.trainer is not None
        return min(MAX_WORKERS, suggested_max_num_workers(self.trainer.num_devices))

    def _loaded_if_small(self, images: ImageSet) -> ImageSet:
        return ResidentImages(*images.load()) if len(images) and self._fits(images.num_bytes) else images

    def _fits(self, num_bytes: int) -> bool:
        return num_bytes <= self.max_resident_mb * MB if self.resident is None else self.resident
