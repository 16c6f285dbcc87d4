"""The tasks of sample.py that edit images: `python sample.py task=inpaint`.

A task reads images, edits them on all devices, and writes a row of pictures for each of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.data.user_images import read_user_images
from alphabar.diffusion.noise import derive_seed
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.thresholdings import Static
from alphabar.errors import UserError
from alphabar.files.paths import display_path
from alphabar.progress import counted, show_progress
from alphabar.runs.processes.distributed import sum_over_ranks
from alphabar.runs.provenance.picture_record import PictureRecord
from alphabar.sampling.cascade import CONDITION_STREAM, source_conditions, source_images
from alphabar.sampling.conditions import Conditions
from alphabar.sampling.image_grid import grid, save_png
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import must_fit_png
from alphabar.sampling.pipeline import Pipeline, start_pipeline
from alphabar.sampling.prepare import removed_on_error
from alphabar.sampling.record import recorded_sampling
from alphabar.sampling.sampling_job import SamplingJob

MAX_ROWS = 16

Edit = Callable[[list[int]], Iterator[Tensor]]


class EditPlan(NamedTuple):
    """The edits of a task, a row of pictures for each.

    end: the index that follows that of the last row; the first one is `inference.first`, and num_rows are between them.
    num_columns: the number of tensors that `edit` yields for each row.
    edit: for the indices [B] of rows, yields their columns, each [B, ...] in the space of the model.
    pictures: returns the pictures of the edited rows [num_rows, num_columns, ...], by name and from left to right, each
        [num_rows, C, H, W]. finish: returns further results of these rows; called on all processes when the pictures are written.
    other_files: the names of the files that `finish` writes into the folder.
    """

    end: int
    num_columns: int
    edit: Edit
    pictures: Callable[[Tensor], Mapping[str, Tensor]]
    finish: Callable[[Tensor], dict[str, object]] = lambda rows: {}
    other_files: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ImageTask(ABC):
    """Edits images: row i depends on its images, the weights, the sampler, the seed and i alone.

    Images are `inference.files`, or held-out images of the checkpoint's data; they are also the condition of a model that is
    conditioned on images. There are at most `inference.num` rows, and no more than there are images for;
    the first one is row `inference.first`.
    """

    inference: Inference

    @abstractmethod
    def plan(self, fabric: Fabric, pipeline: Pipeline) -> EditPlan:
        """Returns the edits. Raises UserError for images that are not at hand, or that cannot be edited so."""

    def run(self) -> dict[str, object]:
        """Edits and writes; returns the folder, the number of rows and the further results of the task."""
        fabric, pipeline = start_pipeline(self.inference, self._check)
        with recorded_sampling(fabric, pipeline) as (start, record):
            start["result"] = self._edit(fabric, pipeline, record)
        return start["result"]

    def _check(self, pipeline: Pipeline) -> None:
        """Raises UserError for models that cannot draw with these settings, and for images that PNG cannot store."""
        pipeline.check()
        must_fit_png(pipeline.loaded, "need task=generate format=npz")

    def _edit(self, fabric: Fabric, pipeline: Pipeline, record: PictureRecord) -> dict[str, object]:
        """Edits and writes with a pipeline on its device; returns the results of `run`."""
        folder = self.inference.run_dir
        with removed_on_error(folder):
            plan = self.plan(fabric, pipeline)
            if (num := plan.end - self.inference.first) < 1:
                raise UserError(f"first={self.inference.first}: need a number below {plan.end}, as there are so many rows")
        rows = edited_rows(fabric, pipeline, plan)
        if fabric.is_global_zero:
            pictures = plan.pictures(rows)
            write_pictures(pictures, Path(folder), self.inference, record)
            files = ", ".join([f"grid.png ({' | '.join(pictures)})", "images/", *plan.other_files])
            print(f"{num} rows by step {pipeline.loaded.step:,} in {display_path(folder)}: {files}")
        return {"folder": folder, "num": num, **plan.finish(rows)}

    def originals(self, fabric: Fabric, pipeline: Pipeline, num: int) -> Tensor:
        """Returns at most `num` images, [n, C, H, W], on every process.

        Raises UserError if there are none, or one cannot be read.
        """
        loaded = pipeline.loaded
        if self.inference.files is not None:
            return read_user_images(self.inference.files, loaded.shape, num, loaded.model.codec.bits)
        return source_images(loaded, None, self.inference.data_root, fabric, num)

    def row_conditions(self, pipeline: Pipeline, originals: Tensor) -> Conditions:
        """Returns the conditions of the rows. Raises UserError for images that the model cannot be conditioned on."""
        if pipeline.model.conditioner.takes_images:
            return source_conditions(pipeline.loaded, originals, derive_seed(CONDITION_STREAM, "given", self.inference.seed))
        return pipeline.conditions()

    def refuse_image_conditions(self, pipeline: Pipeline) -> None:
        """Raises UserError for a model that is conditioned on images: its condition would be the result."""
        if pipeline.model.conditioner.takes_images:
            name = type(self).__name__.lower()
            raise UserError(f"task={name}: this model is conditioned on images, and there is none of what is to be made")


def edited_rows(fabric: Fabric, pipeline: Pipeline, plan: EditPlan) -> Tensor:
    """Returns the edited columns of all rows in the space of the model, [num_rows, num_columns, ...], on every process."""
    first = pipeline.settings.first
    num = plan.end - first
    size = min(pipeline.settings.images_at_a_time, num)
    job = SamplingJob(pipeline.sampler, pipeline.codec, pipeline.loaded.shape, pipeline.settings.seed, size)
    rows = torch.zeros(num, plan.num_columns, *job.space)
    batches = list(job.batches(num, fabric.global_rank, fabric.world_size, first))
    bar = show_progress(counted(num, "image"), len(batches) * plan.num_columns, "picture", fabric.is_global_zero)
    with torch.no_grad(), pipeline.autocast(), bar as progress:
        for padded in batches:
            indices = [index - first for index in padded if index < plan.end]
            for column, x in enumerate(plan.edit([min(index, plan.end - 1) for index in padded])):
                rows[indices, column] = x[: len(indices)].float().cpu()
                progress.update()
    # Each row is zero on all processes but one.
    rows = sum_over_ranks(rows.to(fabric.device))
    num_nonfinite = int((~rows.isfinite()).flatten(2).any(2).sum())
    if num_nonfinite > 0 and fabric.is_global_zero:
        print(f"{num_nonfinite} of {num * plan.num_columns} results have NaN or infinity in them, and are black in the pictures")
    return rows


def write_pictures(columns: Mapping[str, Tensor], folder: Path, settings: Inference, record: PictureRecord) -> None:
    """Writes `grid.png` with the first 16 rows, and all pictures, [num, C, H, W] by name, as images/<row>_<column>.png."""
    rows = torch.stack([images.cpu() for images in columns.values()], dim=1)
    save_png(grid(rows[:MAX_ROWS].flatten(0, 1), num_columns=len(columns)), folder / "grid.png", record.text())
    for index, row in enumerate(rows, settings.first):
        alone = {"seed": settings.seed, "first": index, "num": 1}
        for name, image in zip(columns, row, strict=True):
            text = record.text_of_image(alone, {"Index": str(index), "Column": name})
            save_png(image, folder / "images" / f"{index:06d}_{name}.png", text)


def without_thresholding(sampler: Sampler) -> Sampler:
    """Returns the sampler without thresholding: if predictions were clipped on the way down alone, images would not come back.

    Raises ValueError for a thresholding other than the configuration's default, which the user must have asked for.
    """
    if sampler.thresholding not in (None, Static()):
        name = type(sampler.thresholding).__name__.lower()
        raise ValueError(f"need thresholding=none, since nothing can be clipped on the way up to noise, got {name}")
    return replace(sampler, thresholding=None)
