"""Diagnostics of images beside their figures: faults of their pixels, low diversity, and copies of training images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.bits import rounded_to_uint8
from alphabar.data import ImageSet
from alphabar.evaluation.measurement import Measurement
from alphabar.evaluation.reference_statistics import NUM_ROWS, ReferenceStatistics
from alphabar.metrics.health import diversity, image_warnings
from alphabar.metrics.memorisation import Memorisation, Neighbours, compare_distances, nearest_neighbours
from alphabar.plotting.memorisation import MemorisationPanel
from alphabar.runs.processes.distributed import from_first
from alphabar.sampling.image_grid import grid

NUM_SHOWN = 8  # images in each part of the picture


@dataclass(frozen=True)
class Diagnostics:
    """The diagnostics of a set of images.

    warnings: one line for each fault, none for healthy images; "complaints" in receipts.
    pixels, pixels_real: see `ImageStatistics.to_dict`. memorisation: None without held-out images.
    neighbours, neighbours_held_out: the nearest training images of each generated and of each held-out image; None if nothing was
    compared.
    """

    warnings: tuple[str, ...]
    diversity: float
    num_nonfinite: int
    pixels: Mapping[str, Any]
    pixels_real: Mapping[str, Any]
    memorisation: Memorisation | None
    neighbours: Neighbours | None
    neighbours_held_out: Neighbours | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the diagnostics as a receipt holds them."""
        return {
            "complaints": list(self.warnings),
            "diversity": self.diversity,
            "num_nonfinite": self.num_nonfinite,
            "pixels": self.pixels,
            "pixels_real": self.pixels_real,
            "memorisation": None if self.memorisation is None else self.memorisation._asdict(),
        }

    def figures(self) -> dict[str, float]:
        """Returns the figures that loggers plot."""
        means = zip(self.pixels["mean"], self.pixels_real["mean"], strict=True)
        stds = zip(self.pixels["std"], self.pixels_real["std"], strict=True)
        figures = {
            "health/colour_cast": max((generated - real for generated, real in means), key=abs),
            "health/contrast": sum(generated / max(real, 1e-9) for generated, real in stds) / len(self.pixels["std"]),
            "health/saturated": self.pixels["saturated"] - self.pixels_real["saturated"],
            "health/diversity": self.diversity,
        }
        if self.memorisation is not None:
            figures["health/near_copies"] = self.memorisation.share
        return figures


def diagnose_images(reference: ReferenceStatistics, measurement: Measurement, with_neighbours: bool = True) -> Diagnostics:
    """Returns the diagnostics of a set of images; all processes call it.

    with_neighbours: whether copies of training images are searched for, which takes the longest.
    """
    real, generated = reference.real, measurement.features
    is_enough = generated.num >= 2
    variance_ratio = diversity(generated.gaussian, real.features.gaussian) if is_enough else float("nan")
    lines = image_warnings(measurement.pixels, real.pixels, variance_ratio) if is_enough else []
    if measurement.num_nonfinite:
        lines.insert(0, f"{measurement.num_nonfinite} of {reference.num} images have NaN or infinity in them, and are in no figure")
    neighbours, neighbours_held_out, memorisation = None, None, None
    if with_neighbours and reference.held_out is not None and len(generated.rows):
        device, held_out_rows = torch.device(measurement.pixels.sums.device), reference.held_out.features.rows[:NUM_ROWS]

        def search() -> tuple[Neighbours, Neighbours, int]:
            bank = real.features.rows
            return nearest_neighbours(generated.rows, bank, device), nearest_neighbours(held_out_rows, bank, device), len(bank)

        neighbours, neighbours_held_out, num_searched = from_first(search)
        memorisation = compare_distances(neighbours, neighbours_held_out, num_searched)
        if memorisation.is_flagged:
            share = f"{memorisation.share:.1%}"
            lines.append(f"memorisation: {share} of the images are as near to a training image as only 1% of held-out images are")
    return Diagnostics(
        tuple(lines),
        variance_ratio,
        measurement.num_nonfinite,
        measurement.pixels.to_dict(),
        real.pixels.to_dict(),
        memorisation,
        neighbours,
        neighbours_held_out,
    )


def diagnostics_over_seeds(diagnostics: Sequence[Diagnostics], seeds: Sequence[int]) -> dict[str, Any]:
    """Returns the diagnostics of the first seed as a receipt holds them, with the warnings and the broken images of all seeds."""
    if not diagnostics:
        return {}
    pairs = [(seed, line) for seed, each in zip(seeds, diagnostics, strict=True) for line in each.warnings]
    lines = [f"seed {seed}: {line}" if len(diagnostics) > 1 else line for seed, line in pairs]
    return {**diagnostics[0].to_dict(), "complaints": lines, "num_nonfinite": [each.num_nonfinite for each in diagnostics]}


def memorisation_panel(
    diagnostics: Diagnostics, measurement: Measurement, reference: ReferenceStatistics
) -> MemorisationPanel | None:
    """Returns the content of the picture `memorisation.png`, or None if nothing was compared with training images.

    It shows the images nearest to a training image, and some at the median distance, each beside its three nearest training
    images, and the distribution of these distances beside that of held-out images.
    """
    near, held_out, memorisation = diagnostics.neighbours, diagnostics.neighbours_held_out, diagnostics.memorisation
    if near is None or held_out is None or memorisation is None:
        return None
    examples, places = measurement.examples, measurement.features.places
    rows = [row for row in near.distances[:, 0].argsort().tolist() if places[row] < len(examples)]
    middle = max(0, len(rows) // 2 - NUM_SHOWN // 2)
    groups = {"nearest to a training image": rows[:NUM_SHOWN], "typical": rows[middle : middle + NUM_SHOWN]}
    return MemorisationPanel(
        {
            title: _beside_neighbours(examples[places[group]], near.indices[group], reference.train_set)
            for title, group in groups.items()
            if group
        },
        near.distances[:, 0].numpy(),
        held_out.distances[:, 0].numpy(),
        memorisation.threshold,
        memorisation.share,
        memorisation.num_searched,
        memorisation.is_flagged,
        reference.extractor.name,
    )


def _beside_neighbours(images: Tensor, neighbours: Tensor, training: ImageSet) -> np.ndarray:
    """Returns a picture with a row for each image, uint8 [B, C, H, W], followed by its neighbours, whose indices are [B, K]."""
    near = [rounded_to_uint8(training.images(indices).cpu()) for indices in neighbours]
    rows = [torch.cat([image[None], others]) for image, others in zip(images, near, strict=True)]
    picture = grid(torch.cat(rows), num_columns=1 + neighbours.shape[1]).permute(1, 2, 0).numpy()
    return picture[..., 0] if picture.shape[-1] == 1 else picture
