"""What can be done with a trained model besides drawing images from noise: `python sample.py task=...`.

A task reads images, edits them on all devices, a column of pictures at a time, and writes rows of these pictures.
"""

import sys
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from alphabar.data.user_images import given_images
from alphabar.diffusion.noise import derive_seed
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.thresholdings import Static
from alphabar.errors import UserError
from alphabar.runs.console import shown
from alphabar.runs.distributed import total
from alphabar.sampling.cascade import source_conditions, source_images
from alphabar.sampling.conditions import Conditions
from alphabar.sampling.image_grid import grid, save_png
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import Loaded
from alphabar.sampling.sampling_job import SamplingJob

MAX_ROWS = 16

Edit = Callable[[list[int]], Iterator[Tensor]]


@dataclass(frozen=True, kw_only=True)
class ImageTask(Inference, ABC):
    """What is done with images: row i depends on the images in it, the weights, the sampler, the seed and i alone.

    num: rows, at most as many as there are images for.
    Images are `files`, or of the checkpoint's own data; a model that is told of pictures is told of them, too.
    Raises ValueError as `Inference` does.
    """

    def originals(self, fabric: Fabric, loaded: Loaded, num: int) -> Tensor:
        """At most `num` images, uint8 [n, C, H, W], on every process. Raises UserError if there are none, or one cannot be read."""
        if self.files is not None:
            return given_images(self.files, loaded.shape, num)
        return source_images(loaded, None, self.data_root, fabric, num)

    def told_of(self, loaded: Loaded, originals: Tensor) -> Conditions:
        """The condition of each row. Raises UserError for images that mean nothing to the model."""
        if loaded.model.conditioner.takes_images:
            return source_conditions(loaded, originals, derive_seed("told", "given", self.seed))
        return self.told(loaded)

    def must_be_told_no_pictures(self, loaded: Loaded) -> None:
        """Raises UserError for a model that is: it would be shown what is to be made."""
        if loaded.model.conditioner.takes_images:
            name = type(self).__name__.lower()
            raise UserError(f"task={name}: this model is conditioned on images, and there is none of what is to be made")

    def edited(self, fabric: Fabric, loaded: Loaded, num: int, num_columns: int, edit: Edit) -> Tensor:
        """What `edit` makes of all rows, in the space of the model: [num, num_columns, ...], on every process.

        edit: for the indices [B] of rows, yields their columns, each [B, ...].
        """
        generation = SamplingJob(self.acting(loaded), loaded.model.codec, loaded.shape, self.seed, min(self.batch_size, num))
        rows = torch.zeros(num, num_columns, *generation.space)
        batches = list(generation.batches(num, fabric.global_rank, fabric.world_size))
        is_shown = fabric.is_global_zero and sys.stderr.isatty()
        with torch.no_grad(), fabric.autocast(), tqdm(total=len(batches) * num_columns, disable=not is_shown) as bar:
            for padded in batches:
                indices = [index for index in padded if index < num]
                for column, x in enumerate(edit([min(index, num - 1) for index in padded])):
                    rows[indices, column] = x[: len(indices)].float().cpu()
                    bar.update()
        # Each row is zero on all processes but one.
        rows = total(rows.to(fabric.device))
        broken = int((~rows.isfinite()).flatten(2).any(2).sum())
        if broken > 0 and fabric.is_global_zero:
            print(f"{broken} of {num * num_columns} results have NaN or infinity in them, and are black in the pictures")
        return rows

    def write(self, loaded: Loaded, columns: Mapping[str, Tensor], others: str = "") -> None:
        """Writes `grid.png`, a row for each of the first 16, and all pictures as images/<row>_<column>.png; for the first process.

        columns: uint8 [num, C, H, W], by name and from left to right. others: what else is in the folder.
        """
        folder = Path(self.run_dir)
        rows = torch.stack([images.cpu() for images in columns.values()], dim=1)
        save_png(grid(rows[:MAX_ROWS].flatten(0, 1), num_columns=len(columns)), folder / "grid.png")
        for index, row in enumerate(rows):
            for name, image in zip(columns, row, strict=True):
                save_png(image, folder / "images" / f"{index:06d}_{name}.png")
        print(f"{len(rows)} rows by step {loaded.step:,} in {shown(folder)}: grid.png ({' | '.join(columns)}), images/{others}")


def unclipped(sampler: Sampler) -> Sampler:
    """The sampler without thresholding: clipped on the way down alone, images would not come back.

    Raises ValueError for a thresholding other than the configuration's default, which somebody must have asked for.
    """
    if sampler.thresholding not in (None, Static()):
        name = type(sampler.thresholding).__name__.lower()
        raise ValueError(f"need thresholding=none, since nothing can be clipped on the way up to noise, got {name}")
    return replace(sampler, thresholding=None)
