"""The task of sample.py that draws new images from a checkpoint and writes them to files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.diffusion.noise import derive_seed
from alphabar.errors import UserError
from alphabar.files.atomic import atomic_writer, write_text
from alphabar.files.paths import display_path
from alphabar.runs.distributed import sum_over_ranks
from alphabar.sampling.cascade import RecordingSamples, source_conditions, source_images
from alphabar.sampling.conditions import Conditions
from alphabar.sampling.film import record_film, write_film
from alphabar.sampling.image_grid import grid, grid_with_captions, grid_with_row_names, save_png, side_by_side
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import Loaded
from alphabar.sampling.prepare import withdrawn_on_error
from alphabar.sampling.preview import source_columns
from alphabar.sampling.sampling_job import Generated, gather

MAX_IN_GRID = 256


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Draws images and writes all of them, `grid.png` (the first 256 with their conditions), `film.png` and `film.gif`.

    format: "png", one file for each image in images/, or "npz", one array `images` [num, H, W, C] uint8 in images.npz.
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
        settings, folder = self.inference, Path(self.inference.run_dir)
        fabric, loaded = settings.start(settings.must_draw)
        with withdrawn_on_error(settings.run_dir):
            conditions, sources = self._conditions(fabric, loaded)
        num_nonfinite = torch.zeros(1, device=fabric.device)
        kept = settings.num if self.format == "npz" else min(settings.num, MAX_IN_GRID)
        upstream: dict[int, Tensor] = {}
        drawn = settings.images(
            fabric, loaded, conditions, wrap_upstream=lambda images: RecordingSamples(images, MAX_IN_GRID, upstream)
        )
        images = gather(loaded.shape.size, kept, self._written(drawn, folder, num_nonfinite), fabric.device)
        broken = int(sum_over_ranks(num_nonfinite))
        columns = self._upstream_column(fabric, loaded, upstream)
        if fabric.is_global_zero:
            first = images[:MAX_IN_GRID]
            columns += [first] if sources is None else source_columns(conditions, sources, first)
            save_png(self._grid(loaded, side_by_side(*columns)), folder / "grid.png")
            self._write_others(fabric, loaded, conditions, images, folder)
            self._report(loaded, folder, broken)
        return {"folder": str(folder), "num": settings.num, "num_nonfinite": broken}

    def _conditions(self, fabric: Fabric, loaded: Loaded) -> tuple[Conditions, Tensor | None]:
        """Returns the conditions of the first model, and the images that they are of, [N, C, H, W], unless it is a cascade's.

        Raises UserError for images that are not at hand, or that the model cannot be conditioned on.
        """
        settings, first = self.inference, loaded.first
        if not first.model.conditioner.takes_images:
            if settings.files is not None or settings.data_root is not None:
                given = f"images={settings.files}" if settings.files is not None else f"data_root={settings.data_root}"
                name = type(first.model.conditioner).__name__
                raise UserError(f"{given}: this model is not conditioned on images (it has {name})")
            return settings.conditions(loaded), None
        sources = source_images(first, settings.files, settings.data_root, fabric, settings.num)
        conditions = source_conditions(first, sources, derive_seed("told", "given", settings.seed))
        return conditions, None if loaded.before else sources

    def _upstream_column(self, fabric: Fabric, loaded: Loaded, upstream: dict[int, Tensor]) -> list[Tensor]:
        """Returns the samples that a cascade's last model was conditioned on, uint8 [N, C, H, W], if they are images; else none."""
        if not loaded.before or not loaded.before[-1].model.codec.makes_images:
            return []
        indices = sorted(upstream)
        images = torch.stack([upstream[index] for index in indices]) if indices else torch.empty(0)
        mine = [Generated(indices, images, torch.ones(len(indices)).bool())] if indices else []
        return [gather(loaded.before[-1].shape.size, min(self.inference.num, MAX_IN_GRID), mine, fabric.device)]

    def _written(self, share: Iterator[Generated], folder: Path, num_nonfinite: Tensor) -> Iterator[Generated]:
        """Writes each image as it is drawn, if they go into single files, and counts those that are not finite."""
        for part in share:
            num_nonfinite += (~part.finite).sum()
            if self.format == "png":
                for index, image in zip(part.indices, part.images, strict=True):
                    save_png(image, folder / "images" / f"{index:06d}.png")
            yield part

    def _grid(self, loaded: Loaded, cells: Tensor) -> Tensor:
        """Returns the grid: a row for each class, or each prompt with several images; single prompts stand under their images."""
        prompts = self.inference.prompt_list(loaded)
        if not prompts:
            return grid(cells)
        columns = len(cells) // len(prompts)
        if columns > 0 and len(prompts) > 1 and (self.inference.labels is not None or columns > 1):
            return grid_by_prompt(cells, prompts)
        return grid_with_captions(cells, [prompts[index % len(prompts)] for index in range(len(cells))])

    def _write_others(self, fabric: Fabric, loaded: Loaded, conditions: Conditions, images: Tensor, folder: Path) -> None:
        settings, prompts = self.inference, self.inference.prompt_list(loaded)
        if prompts:
            names = {f"{index:06d}.png": prompts[index % len(prompts)] for index in range(settings.num)}
            write_text(folder / "labels.json", json.dumps(names, indent=0) + "\n")
        if self.format == "npz":
            with atomic_writer(folder / "images.npz") as file:
                np.savez(file, images=images.permute(0, 2, 3, 1).numpy())
        if self.film > 0:
            job = settings.job(fabric, loaded, conditions, min(self.film, settings.num))
            with torch.no_grad(), fabric.autocast():
                frames = record_film(job, settings.denoiser(loaded), fabric.device, num_frames=12)
            write_film(frames, folder)

    def _report(self, loaded: Loaded, folder: Path, broken: int) -> None:
        suffix, film = ".npz" if self.format == "npz" else "/", ", film.gif" if self.film > 0 else ""
        print(f"{self.inference.num} images of step {loaded.step:,} in {display_path(folder)}: grid.png, images{suffix}{film}")
        if broken > 0:
            print(f"{broken} of them had NaN or infinity in them, and are black there")


def grid_by_prompt(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Returns a grid [C, H, W] with a row for each prompt, of images [N, C, H, W]; image i has prompt i modulo their number."""
    columns = len(images) // len(prompts)
    rows = images[: columns * len(prompts)].unflatten(0, (columns, len(prompts))).transpose(0, 1)
    return grid_with_row_names(rows.flatten(0, 1), prompts, columns)
