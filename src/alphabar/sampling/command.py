"""From a checkpoint to image files."""

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
from alphabar.runs.console import shown
from alphabar.runs.distributed import total
from alphabar.sampling.cascade import RecordingSamples, source_conditions, source_images
from alphabar.sampling.conditions import Conditions
from alphabar.sampling.film import record_film, write_film
from alphabar.sampling.image_grid import beside, captioned, grid, named, save_png
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import Loaded
from alphabar.sampling.prepare import withdrawn_on_complaint
from alphabar.sampling.preview import source_columns
from alphabar.sampling.sampling_job import Generated, gather

MAX_IN_GRID = 256


@dataclass(frozen=True, kw_only=True)
class Sampling(Inference):
    """Writes all images, `grid.png` (the first 256, with what they are told), and `film.png` and `film.gif` (the first few).

    format: "png", one file an image under images/, or "npz", one array `images` [num, H, W, C] uint8 in images.npz.
    film: how many images the film shows; 0 for no film.
    Raises ValueError as `Inference` does, and unless film >= 0.
    """

    format: Literal["png", "npz"] = "png"
    film: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.film < 0:
            raise ValueError(f"need film >= 0, got film={self.film}")

    def run(self) -> dict[str, object]:
        """Draws and writes; returns where, how many, and how many of them have NaN or infinity in them."""
        fabric, loaded = self.begin()
        folder = Path(self.run_dir)
        with withdrawn_on_complaint(self.run_dir):
            told, pictures = self._of_first(fabric, loaded)
        num_nonfinite = torch.zeros(1, device=fabric.device)
        kept = self.num if self.format == "npz" else min(self.num, MAX_IN_GRID)
        memory: dict[int, Tensor] = {}
        drawn = self.images(fabric, loaded, told, watch=lambda made: RecordingSamples(made, MAX_IN_GRID, memory))
        images = gather(size_of(loaded), kept, self._written(drawn, folder, num_nonfinite), fabric.device)
        broken, before = int(total(num_nonfinite)), self._before(fabric, loaded, memory)
        if fabric.is_global_zero:
            shown_images = images[:MAX_IN_GRID]
            columns = [*before, shown_images] if pictures is None else source_columns(told, pictures, shown_images)
            save_png(self._grid(loaded, beside(*columns)), folder / "grid.png")
            self._write_others(fabric, loaded, told, images, folder)
            others = ", film.gif" if self.film > 0 else ""
            print(f"{self.num} images of step {loaded.step:,} in {shown(folder)}: grid.png, images{self._suffix}{others}")
            if broken > 0:
                print(f"{broken} of them had NaN or infinity in them, and are black there")
        return {"folder": str(folder), "num": self.num, "num_nonfinite": broken}

    def _of_first(self, fabric: Fabric, loaded: Loaded) -> tuple[Conditions, Tensor | None]:
        """What the first model is told of each image, and the pictures in that, [N, C, H, W], if it is the only one.

        Raises UserError for pictures that are not at hand, or that mean nothing to the model.
        """
        first, key = loaded.first, "images" if self.files is not None else "data_root"
        if not first.model.conditioner.takes_images:
            if self.files is not None or self.data_root is not None:
                given = self.data_root if self.files is None else self.files
                name = type(first.model.conditioner).__name__
                raise UserError(f"{key}={given}: this model is conditioned on no images (it has {name})")
            return self.told(loaded), None
        pictures = source_images(first, self.files, self.data_root, fabric, self.num)
        told = source_conditions(first, pictures, derive_seed("told", "given", self.seed))
        return told, None if loaded.before else pictures

    def _before(self, fabric: Fabric, loaded: Loaded, memory: dict[int, Tensor]) -> list[Tensor]:
        """What the last model was told by the one before it, in a list of one, or of none if that is no picture."""
        if not loaded.before or not loaded.before[-1].model.codec.makes_images:
            return []
        indices = sorted(memory)
        images = torch.stack([memory[index] for index in indices]) if indices else torch.empty(0)
        mine = [Generated(indices, images, torch.ones(len(indices)).bool())] if indices else []
        return [gather(size_of(loaded.before[-1]), min(self.num, MAX_IN_GRID), mine, fabric.device)]

    @property
    def _suffix(self) -> str:
        return ".npz" if self.format == "npz" else "/"

    def _written(self, share: Iterator[Generated], folder: Path, num_nonfinite: Tensor) -> Iterator[Generated]:
        for part in share:
            num_nonfinite += (~part.finite).sum()
            if self.format == "png":
                for index, image in zip(part.indices, part.images, strict=True):
                    save_png(image, folder / "images" / f"{index:06d}.png")
            yield part

    def _grid(self, loaded: Loaded, cells: Tensor) -> Tensor:
        """Classes, and prompts of which there are several images, have a row each; other prompts stand under their images."""
        words = self.words(loaded)
        if not words:
            return grid(cells)
        columns = len(cells) // len(words)
        if columns > 0 and len(words) > 1 and (self.labels is not None or columns > 1):
            return by_word(cells, words)
        return captioned(cells, [words[index % len(words)] for index in range(len(cells))])

    def _write_others(self, fabric: Fabric, loaded: Loaded, told: Conditions, images: Tensor, folder: Path) -> None:
        words = self.words(loaded)
        if words:
            names = {f"{index:06d}.png": words[index % len(words)] for index in range(self.num)}
            (folder / "labels.json").write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")
        if self.format == "npz":
            np.savez(folder / "images.npz", images=images.permute(0, 2, 3, 1).numpy())
        if self.film > 0:
            first = self.generation(fabric, loaded, told, min(self.film, self.num))
            with torch.no_grad(), fabric.autocast():
                frames = record_film(first, self.denoiser(loaded), fabric.device, num_frames=12)
            write_film(frames, folder)


def size_of(loaded: Loaded) -> tuple[int, int, int]:
    """(C, H, W) of an image."""
    return loaded.shape.channels, loaded.shape.resolution, loaded.shape.resolution


def by_word(images: Tensor, words: Sequence[str]) -> Tensor:
    """A grid [C, H, W] with a row for each word of images [N, C, H, W] that are told one word after the other, over and over."""
    columns = len(images) // len(words)
    rows = images[: columns * len(words)].unflatten(0, (columns, len(words))).transpose(0, 1)
    return named(rows.flatten(0, 1), words, columns)
