"""The picture of the generated images that are nearest to training images."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alphabar.plotting.figure import figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = "memorisation.png"
NUM_BINS = 40


class MemorisationPanel(NamedTuple):
    """The content of `memorisation.png`.

    pictures: by title, rows of a generated image and its nearest training images, uint8 [H, W] or [H, W, 3].
    distances, held_out_distances: [M] and [N], from each generated and each held-out image to the nearest training image.
    threshold: the distance within which 1% of the held-out images lie. share: the share of generated images within it.
    num_searched: the number of training images. features: the name of the features in which distances are measured.
    """

    pictures: Mapping[str, np.ndarray]
    distances: np.ndarray
    held_out_distances: np.ndarray
    threshold: float
    share: float
    num_searched: int
    is_flagged: bool
    features: str


def draw_memorisation(panel: MemorisationPanel, path: Path) -> None:
    """Writes a PNG with the pictures, and with the distribution of the distances beside that of held-out images."""
    with figure_file(path, 13, 4.6) as figure:
        ratios = [1.0] * len(panel.pictures) + [1.3]
        parts = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        for axes, (title, picture) in zip(parts, panel.pictures.items(), strict=False):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(f"{title}: sample | its 3 nearest", fontsize=9)
            axes.set_axis_off()
        plot_distances(parts[-1], panel)


def plot_distances(axes: "Axes", panel: MemorisationPanel) -> None:
    """Draws the histograms of both kinds of distances, and the threshold."""
    generated, held_out = panel.distances, panel.held_out_distances
    edges = np.linspace(0, float(max(generated.max(), held_out.max())) * 1.02 + 1e-9, NUM_BINS + 1).tolist()
    axes.hist(held_out, edges, density=True, alpha=0.5, color="grey", label=f"{len(held_out):,} held-out images")
    axes.hist(generated, edges, density=True, histtype="step", linewidth=1.8, color="C3", label=f"{len(generated):,} samples")
    axes.axvline(panel.threshold, color="black", linestyle="--", linewidth=1, label="1% of held-out images are nearer")
    axes.set(
        xlabel=f"distance to the nearest of {panel.num_searched:,} training images, in {panel.features} features", ylabel="density"
    )
    axes.set_title(f"{panel.share:.1%} of samples below the line" + (": memorised" if panel.is_flagged else ""), fontsize=9)
    axes.legend()
