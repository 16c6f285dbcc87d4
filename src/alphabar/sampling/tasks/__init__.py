"""The tasks of sample.py that edit images: `python sample.py task=inpaint`.

A task reads images, edits them on all devices, and writes a row of pictures for each of them.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from alphabar.data.user_images import read_user_images
from alphabar.diffusion.noise import derive_seed
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.thresholdings import Static
from alphabar.errors import UserError
from alphabar.files.paths import display_path
from alphabar.runs.distributed import sum_over_ranks
from alphabar.sampling.cascade import source_conditions, source_images
from alphabar.sampling.conditions import Conditions
from alphabar.sampling.image_grid import grid, save_png
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import Loaded
from alphabar.sampling.sampling_job import SamplingJob

MAX_ROWS = 16

Edit = Callable[[list[int]], Iterator[Tensor]]


@dataclass(frozen=True, kw_only=True)
class ImageTask(ABC):
    """Edits images: row i depends on its images, the weights, the sampler, the seed and i alone.

    Images are `inference.files`, or held-out images of the checkpoint's data; they are also the condition of a model that is
    conditioned on images. There are at most `inference.num` rows, and no more than there are images for.
    """

    inference: Inference

    @abstractmethod
    def run(self) -> dict[str, object]:
        """Edits and writes; returns the folder and the number of rows."""

    @property
    def run_dir(self) -> str:
        """The folder of the command."""
        return self.inference.run_dir

    def originals(self, fabric: Fabric, loaded: Loaded, num: int) -> Tensor:
        """Returns at most `num` images, uint8 [n, C, H, W], on every process.

        Raises UserError if there are none, or one cannot be read.
        """
        if self.inference.files is not None:
            return read_user_images(self.inference.files, loaded.shape, num)
        return source_images(loaded, None, self.inference.data_root, fabric, num)

    def conditions_of(self, loaded: Loaded, originals: Tensor) -> Conditions:
        """Returns the conditions of the rows. Raises UserError for images that the model cannot be conditioned on."""
        if loaded.model.conditioner.takes_images:
            return source_conditions(loaded, originals, derive_seed("told", "given", self.inference.seed))
        return self.inference.conditions(loaded)

    def must_not_take_images(self, loaded: Loaded) -> None:
        """Raises UserError for a model that is conditioned on images: its condition would be the result."""
        if loaded.model.conditioner.takes_images:
            name = type(self).__name__.lower()
            raise UserError(f"task={name}: this model is conditioned on images, and there is none of what is to be made")

    def edited(self, fabric: Fabric, loaded: Loaded, num: int, num_columns: int, edit: Edit) -> Tensor:
        """Returns the edited columns of all rows in the space of the model, [num, num_columns, ...], on every process.

        edit: for the indices [B] of rows, yields their columns, each [B, ...].
        """
        settings, size = self.inference, min(self.inference.batch_size, num)
        job = SamplingJob(settings.sampler_for(loaded), loaded.model.codec, loaded.shape, settings.seed, size)
        rows = torch.zeros(num, num_columns, *job.space)
        batches = list(job.batches(num, fabric.global_rank, fabric.world_size))
        is_shown = fabric.is_global_zero and sys.stderr.isatty()
        with torch.no_grad(), fabric.autocast(), tqdm(total=len(batches) * num_columns, disable=not is_shown) as bar:
            for padded in batches:
                indices = [index for index in padded if index < num]
                for column, x in enumerate(edit([min(index, num - 1) for index in padded])):
                    rows[indices, column] = x[: len(indices)].float().cpu()
                    bar.update()
        # Each row is zero on all processes but one.
        rows = sum_over_ranks(rows.to(fabric.device))
        broken = int((~rows.isfinite()).flatten(2).any(2).sum())
        if broken > 0 and fabric.is_global_zero:
            print(f"{broken} of {num * num_columns} results have NaN or infinity in them, and are black in the pictures")
        return rows

    def write(self, loaded: Loaded, columns: Mapping[str, Tensor], others: str = "") -> None:
        """Writes `grid.png` with the first 16 rows, and all pictures as images/<row>_<column>.png; called on the first process.

        columns: uint8 [num, C, H, W], by name and from left to right. others: the names of other files in the folder.
        """
        folder = Path(self.run_dir)
        rows = torch.stack([images.cpu() for images in columns.values()], dim=1)
        save_png(grid(rows[:MAX_ROWS].flatten(0, 1), num_columns=len(columns)), folder / "grid.png")
        for index, row in enumerate(rows):
            for name, image in zip(columns, row, strict=True):
                save_png(image, folder / "images" / f"{index:06d}_{name}.png")
        print(
            f"{len(rows)} rows by step {loaded.step:,} in {display_path(folder)}: grid.png ({' | '.join(columns)}), images/{others}"
        )


def unclipped(sampler: Sampler) -> Sampler:
    """Returns the sampler without thresholding: if predictions were clipped on the way down alone, images would not come back.

    Raises ValueError for a thresholding other than the configuration's default, which the user must have asked for.
    """
    if sampler.thresholding not in (None, Static()):
        name = type(sampler.thresholding).__name__.lower()
        raise ValueError(f"need thresholding=none, since nothing can be clipped on the way up to noise, got {name}")
    return replace(sampler, thresholding=None)
