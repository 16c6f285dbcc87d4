"""The task of sample.py that draws new images from a checkpoint and writes them to files."""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.files.atomic import atomic_writer, write_text
from alphabar.files.paths import display_path
from alphabar.runs.processes.distributed import sum_over_ranks
from alphabar.runs.provenance.picture_record import PictureRecord
from alphabar.sampling.cascade import RecordingSamples
from alphabar.sampling.conditions import Conditions
from alphabar.sampling.film import num_film_frames, record_film, write_film
from alphabar.sampling.image_grid import grid, grid_with_captions, grid_with_row_names, save_png, side_by_side
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import LoadedModel, must_fit_png
from alphabar.sampling.pipeline import Pipeline, start_pipeline
from alphabar.sampling.prepare import removed_on_error
from alphabar.sampling.preview import source_columns
from alphabar.sampling.record import recorded_sampling
from alphabar.sampling.sampling_job import SampleBatch, gather_images

MAX_IN_GRID = 256
FILM_COLUMNS = 12
NUM_WRITERS = 4  # threads that write files, mostly without holding the interpreter


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Draws images and writes all of them, `grid.png` (the first 256 with their conditions), `film.png` and `film.gif`.

    format: "png", one file for each image in images/, or "npz", one array `images` [num, H, W, C] in images.npz.
    film: the number of images in the film; 0 for no film.
    Raises ValueError unless film >= 0.
    """

    inference: Inference
    format: Literal["png", "npz"] = "png"
    film: int = 8

    def __post_init__(self) -> None:
        if self.film < 0:
            raise ValueError(f"need film >= 0, got film={self.film}")

    def run(self) -> dict[str, object]:
        """Draws and writes the images; returns their folder, their number, and how many of them have NaN or infinity."""
        fabric, pipeline = start_pipeline(self.inference, self._check)
        with recorded_sampling(fabric, pipeline) as (start, record):
            start["result"] = self._draw(fabric, pipeline, record)
        return start["result"]

    def _check(self, pipeline: Pipeline) -> None:
        """Raises UserError for models that cannot draw with these settings, and for images that PNG cannot store."""
        pipeline.check()
        if self.format == "png":
            must_fit_png(pipeline.loaded, "format=npz")

    def _draw(self, fabric: Fabric, pipeline: Pipeline, record: PictureRecord) -> dict[str, object]:
        """Draws and writes the images with a pipeline on its device; returns the results of `run`."""
        settings, folder = self.inference, Path(self.inference.run_dir)
        with removed_on_error(settings.run_dir):
            conditions, sources = pipeline.conditions_and_sources(fabric)
        num_nonfinite = torch.zeros(1, device=fabric.device)
        kept = settings.num if self.format == "npz" else min(settings.num, MAX_IN_GRID)
        upstream: dict[int, Tensor] = {}
        batches = pipeline.images(
            fabric, conditions, wrap_upstream=lambda images: RecordingSamples(images, settings.first + MAX_IN_GRID, upstream)
        )
        written = self._written(batches, folder, num_nonfinite, record)
        images = gather_images(pipeline.loaded.shape, kept, written, fabric.device, settings.first, bits=pipeline.codec.bits)
        total_nonfinite = int(sum_over_ranks(num_nonfinite))
        columns = self._upstream_column(fabric, pipeline.loaded, upstream)
        if fabric.is_global_zero:
            shown = images[:MAX_IN_GRID]
            columns += [shown] if sources is None else [*source_columns(conditions, sources, shown, settings.first).values()]
            save_png(self._grid(pipeline.prompts, side_by_side(*columns)), folder / "grid.png", record.text())
            self._write_others(fabric, pipeline, conditions, images, record)
            sampler = self.inference.sampler.label(pipeline.model.denoiser.schedule)
            self._report(pipeline.loaded.step, sampler, folder, total_nonfinite)
        return {"folder": str(folder), "num": settings.num, "num_nonfinite": total_nonfinite}

    def _upstream_column(self, fabric: Fabric, loaded: LoadedModel, upstream: dict[int, Tensor]) -> list[Tensor]:
        """Returns the samples that a cascade's last model was conditioned on, uint8 [N, C, H, W], if they are images; else none."""
        if not loaded.upstream or not loaded.upstream[-1].model.codec.makes_images:
            return []
        indices = sorted(upstream)
        images = torch.stack([upstream[index] for index in indices]) if indices else torch.empty(0)
        mine = [SampleBatch(indices, images, torch.ones(len(indices)).bool())] if indices else []
        return [
            gather_images(
                loaded.upstream[-1].shape, min(self.inference.num, MAX_IN_GRID), mine, fabric.device, self.inference.first, bits=8
            )
        ]

    def _written(
        self, batches: Iterator[SampleBatch], folder: Path, num_nonfinite: Tensor, record: PictureRecord
    ) -> Iterator[SampleBatch]:
        """Yields the batches and counts the images that are not finite; of images that go into single files, threads write those of
        a batch while the next one is drawn."""
        with ThreadPoolExecutor(NUM_WRITERS) as writers:
            writing: list[Future[None]] = []
            for batch in batches:
                num_nonfinite += (~batch.finite).sum()
                wait_for_files(writing)
                if self.format == "png":
                    images = zip(batch.indices, batch.images.cpu(), strict=True)
                    writing = [writers.submit(self._write, index, image, folder, record) for index, image in images]
                yield batch
            wait_for_files(writing)

    def _write(self, index: int, image: Tensor, folder: Path, record: PictureRecord) -> None:
        """Writes the image of this index. Raises WriteError."""
        alone = {"format": "png", "film": 0, "seed": self.inference.seed, "first": index, "num": 1}
        save_png(image, folder / "images" / f"{index:06d}.png", record.text_of_image(alone, {"Index": str(index)}))

    def _grid(self, prompts: Sequence[str], cells: Tensor) -> Tensor:
        """Returns the grid: a row for each class, or each prompt with several images; single prompts stand under their images."""
        if not prompts:
            return grid(cells)
        start = self.inference.first % len(prompts)
        prompts = [*prompts[start:], *prompts[:start]]
        columns = len(cells) // len(prompts)
        if columns > 0 and len(prompts) > 1 and (self.inference.labels is not None or columns > 1):
            return grid_by_prompt(cells, prompts)
        return grid_with_captions(cells, [prompts[index % len(prompts)] for index in range(len(cells))])

    def _write_others(
        self, fabric: Fabric, pipeline: Pipeline, conditions: Conditions, images: Tensor, record: PictureRecord
    ) -> None:
        settings, prompts, folder = self.inference, pipeline.prompts, Path(self.inference.run_dir)
        if prompts:
            names = {f"{index:06d}.png": prompts[index % len(prompts)] for index in range(settings.first, settings.end)}
            write_text(folder / "labels.json", json.dumps(names, indent=0) + "\n")
        if self.format == "npz":
            with atomic_writer(folder / "images.npz") as file:
                np.savez(file, images=images.permute(0, 2, 3, 1).numpy())
        if self.film > 0:
            job = pipeline.job(conditions, min(self.film, settings.num))
            with torch.no_grad(), pipeline.autocast():
                frames = record_film(job, pipeline.denoiser(), fabric.device, num_film_frames(FILM_COLUMNS), first=settings.first)
            write_film(frames, folder, FILM_COLUMNS, record.text())

    def _report(self, step: int, sampler: str, folder: Path, num_nonfinite: int) -> None:
        suffix, film = ".npz" if self.format == "npz" else "/", ", film.gif" if self.film > 0 else ""
        print(
            f"{self.inference.num} images of step {step:,} by {sampler} ({self.inference.speed}) in {display_path(folder)}: "
            f"grid.png, images{suffix}{film}"
        )
        if num_nonfinite > 0:
            print(f"{num_nonfinite} of them had NaN or infinity in them, and are black there")


def wait_for_files(futures: Iterable[Future[None]]) -> None:
    """Waits until all are done. Raises the error of the first that failed."""
    for future in futures:
        future.result()


def grid_by_prompt(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Returns a grid [C, H, W] with a row for each prompt, of images [N, C, H, W]; image i has prompt i modulo their number."""
    columns = len(images) // len(prompts)
    rows = images[: columns * len(prompts)].unflatten(0, (columns, len(prompts))).transpose(0, 1)
    return grid_with_row_names(rows.flatten(0, 1), prompts, columns)
