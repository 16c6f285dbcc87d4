"""From a checkpoint to image files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from alphabar.training.callbacks import film
from alphabar.training.checkpoint import Loaded
from alphabar.training.generate import Generated, Generation, gather
from alphabar.training.inference import Inference
from alphabar.training.pictures import grid, save_png
from alphabar.training.ranks import total
from alphabar.training.screen import shown

MAX_IN_GRID = 256


@dataclass(frozen=True, kw_only=True)
class Sampling(Inference):
    """Writes all images, `grid.png` (the first 256, with labels a row for each), and `film.png` and `film.gif` (the first few).

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
        fabric, loaded, generation = self.start()
        folder = Path(self.run_dir)
        num_nonfinite = torch.zeros(1, device=fabric.device)
        share = self._written(self.images(fabric, loaded, generation), folder, num_nonfinite)
        kept = self.num if self.format == "npz" else min(self.num, MAX_IN_GRID)
        images = gather(generation.size, kept, share, fabric.device)
        broken = int(total(num_nonfinite))
        if fabric.is_global_zero:
            self._write_overview(fabric, loaded, generation, images, folder)
            print(f"{self.num} images of step {loaded.step:,} in {shown(folder)}: grid.png, images{self._suffix}, film.gif")
            if broken > 0:
                print(f"{broken} of them had NaN or infinity in them, and are black there")
        return {"folder": str(folder), "num": self.num, "num_nonfinite": broken}

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

    def _write_overview(self, fabric: Fabric, loaded: Loaded, generation: Generation, images: Tensor, folder: Path) -> None:
        words = self.words(loaded)
        shown = images[:MAX_IN_GRID]
        save_png(by_word(shown, len(words)) if 1 < len(words) <= len(shown) else grid(shown), folder / "grid.png")
        if words:
            told = {f"{index:06d}.png": words[index % len(words)] for index in range(self.num)}
            (folder / "labels.json").write_text(json.dumps(told, indent=0) + "\n", encoding="utf-8")
        if self.format == "npz":
            np.savez(folder / "images.npz", images=images.permute(0, 2, 3, 1).numpy())
        if self.film > 0:
            first = replace(generation, batch_size=min(self.film, self.num))
            with torch.no_grad(), fabric.autocast():
                frames = film.record(first, self.denoiser(loaded), fabric.device, num_frames=12)
            film.write(frames, folder)


def by_word(images: Tensor, num_words: int) -> Tensor:
    """A grid [C, H, W] with a row for each word of images [N, C, H, W] that are told one word after the other, over and over."""
    columns = len(images) // num_words
    return grid(images[: columns * num_words].unflatten(0, (columns, num_words)).transpose(0, 1).flatten(0, 1), columns)
