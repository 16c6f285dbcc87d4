"""Diagnostics of images beside their figures: health and memorisation, in words, numbers and a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.evaluation.measurement import Measurement
from alphabar.evaluation.reference_statistics import NUM_ROWS, ReferenceStatistics
from alphabar.metrics.health import complaints, diversity
from alphabar.metrics.memorisation import Memorisation, Neighbours, compare, nearest
from alphabar.runs.distributed import from_first

PANEL = "memorisation.png"
NUM_SHOWN = 8


@dataclass(frozen=True)
class Diagnostics:
    """The findings about a set of images.

    complaints: one line each, none for healthy images. memorisation: None without held-out images.

    neighbours: the nearest training images of each generated image; None if nothing was compared.
    """

    complaints: tuple[str, ...]
    diversity: float
    num_nonfinite: int
    pixels: Mapping[str, Any]
    pixels_real: Mapping[str, Any]
    memorisation: Memorisation | None
    neighbours: Neighbours | None
    neighbours_held_out: Neighbours | None

    def record(self) -> dict[str, Any]:
        """Returns the entry of a receipt."""
        return {
            "complaints": list(self.complaints),
            "diversity": self.diversity,
            "num_nonfinite": self.num_nonfinite,
            "pixels": self.pixels,
            "pixels_real": self.pixels_real,
            "memorisation": None if self.memorisation is None else self.memorisation._asdict(),
        }

    def figures(self) -> dict[str, float]:
        """Returns the figures that loggers plot."""
        pairs = zip(self.pixels["mean"], self.pixels_real["mean"], strict=True)
        spread = zip(self.pixels["std"], self.pixels_real["std"], strict=True)
        found = {
            "health/colour_cast": max((ours - theirs for ours, theirs in pairs), key=abs),
            "health/contrast": sum(ours / max(theirs, 1e-9) for ours, theirs in spread) / len(self.pixels["std"]),
            "health/saturated": self.pixels["saturated"] - self.pixels_real["saturated"],
            "health/diversity": self.diversity,
        }
        if self.memorisation is not None:
            found["health/near_copies"] = self.memorisation.share
        return found


def find(judge: ReferenceStatistics, measured: Measurement, with_neighbours: bool = True) -> Diagnostics:
    """Returns the diagnostics of a set of images. All processes call it; only the first one gets the neighbours."""
    real, ours = judge.real, measured.features
    spread = diversity(ours.sums, real.features.sums) if ours.num >= 2 else float("nan")
    lines = complaints(measured.pixels, real.pixels, spread) if ours.num >= 2 else []
    if measured.num_nonfinite:
        lines.insert(0, f"{measured.num_nonfinite} of {judge.num} images have NaN or infinity in them, and are in no figure")
    near, near_held_out = None, None
    copied: Memorisation | None = None
    if with_neighbours and judge.held_out is not None and len(ours.rows):
        device, held_out = torch.device(measured.pixels.sums.device), judge.held_out.features.rows[:NUM_ROWS]

        def work() -> tuple[Neighbours, Neighbours]:
            bank = real.features.rows
            return nearest(ours.rows, bank, device), nearest(held_out, bank, device)

        near, near_held_out = from_first(work)
        copied = compare(near, near_held_out, from_first(lambda: len(real.features.rows)))
        if copied.is_flagged:
            lines.append(
                f"memorisation: {copied.share:.1%} of the images are as near to a training image as only 1% of held-out images are"
            )
    return Diagnostics(
        tuple(lines),
        spread,
        measured.num_nonfinite,
        measured.pixels.record(),
        real.pixels.record(),
        copied,
        near,
        near_held_out,
    )


def record(found: Sequence[Diagnostics], seeds: Sequence[int]) -> dict[str, Any]:
    """Returns the entry of a receipt: that of the first seed, with the complaints and the broken images of all seeds."""
    if not found:
        return {}
    pairs = [(seed, line) for seed, each in zip(seeds, found, strict=True) for line in each.complaints]
    lines = [f"seed {seed}: {line}" if len(found) > 1 else line for seed, line in pairs]
    return {**found[0].record(), "complaints": lines, "num_nonfinite": [each.num_nonfinite for each in found]}


def draw_panel(findings: Diagnostics, measured: Measurement, training: ImageSet, folder: Path) -> Path | None:
    """Writes `memorisation.png` and returns its path, or returns None if there is nothing to draw.

    It shows the images nearest to a training image, and some at the median distance, each beside its three nearest training
    images, and the distribution of these distances beside that of held-out images.
    """
    near, held_out, copied = findings.neighbours, findings.neighbours_held_out, findings.memorisation
    if near is None or held_out is None or copied is None:
        return None
    from matplotlib.figure import Figure  # takes half a second to import, and only this function needs it

    gallery, places = measured.gallery, measured.features.places
    shown = [row for row in near.distances[:, 0].argsort().tolist() if places[row] < len(gallery)]
    middle = max(0, len(shown) // 2 - NUM_SHOWN // 2)
    groups = {"nearest to a training image": shown[:NUM_SHOWN], "typical": shown[middle : middle + NUM_SHOWN]}
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    parts = figure.subplots(1, 3, width_ratios=[1, 1, 1.3])
    for axes, (title, chosen) in zip(parts, groups.items(), strict=False):
        axes.imshow(_pairs(chosen, near, gallery[places[chosen]], training), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(f"{title}: sample | its 3 nearest", fontsize=9)
        axes.set_axis_off()
    axes = parts[2]
    ours, theirs = near.distances[:, 0].numpy(), held_out.distances[:, 0].numpy()
    edges = torch.linspace(0, float(max(ours.max(), theirs.max())) * 1.02 + 1e-9, 41).tolist()
    axes.hist(theirs, edges, density=True, alpha=0.5, color="grey", label=f"{len(theirs):,} held-out images")
    axes.hist(ours, edges, density=True, histtype="step", linewidth=1.8, color="C3", label=f"{len(ours):,} samples")
    axes.axvline(copied.threshold, color="black", linestyle="--", linewidth=1, label="1% of held-out images are nearer")
    axes.set(xlabel=f"distance to the nearest of {copied.num_searched:,} training images", ylabel="density")
    axes.set_title(f"{copied.share:.1%} of samples below the line" + (": memorised" if copied.is_flagged else ""), fontsize=9)
    axes.legend(fontsize="small")
    path = folder / PANEL
    figure.savefig(path, dpi=110)
    return path


def _pairs(chosen: list[int], near: Neighbours, images: Tensor, training: ImageSet) -> Any:
    """Returns rows of an image and its neighbours in the layout of Matplotlib.

    chosen: rows of `near`. images: the images of these rows, [len(chosen), C, H, W].
    """
    from alphabar.sampling.image_grid import grid

    rows = []
    for row, image in zip(chosen, images, strict=True):
        rows += [image[None], training.images(near.indices[row]).cpu()]
    columns = 1 + near.indices.shape[1]
    return _array(grid(torch.cat(rows), num_columns=columns))


def _array(image: Tensor) -> Any:
    array = image.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array
