"""The picture of a sweep: the figure of merit over what was swept, and samples of every job."""

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphabar.runs.sweep import KINDS, Job, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

CROP = 216  # pixels of a sample grid that are shown, from its top left corner
TILE = 2.0  # inches
MAX_COLUMNS = 6
MAX_LINES = 10  # that have a name and a colour of their own


def draw(sweep: Sweep, path: Path) -> None:
    """Writes the picture: FID (or else the final loss) over the parameter that was swept last, a line for each combination of
    the others; below, the newest sample grid of every job, if any has one or did not finish."""
    from matplotlib.figure import Figure  # half a second that only this needs

    layout = Layout(sweep)
    columns, rows = layout.shape()
    title_lines = len(layout.keys) + 1
    has_tiles = any(job.state != "finished" or newest_samples(job.folder) is not None for job in sweep.jobs)
    heights = [4.0, rows * (TILE + 0.22 * title_lines)] if has_tiles else [4.0]
    figure = Figure(figsize=(max(8.0, columns * (TILE + 0.25) if has_tiles else 0), sum(heights)), layout="constrained")
    parts = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    plot(figure.add_subfigure(parts[0]).subplots(), layout)
    if has_tiles:
        show_samples(figure.add_subfigure(parts[1]), layout, columns, rows)
    figure.savefig(path, dpi=110)


class Layout:
    """Where each job belongs: on which line (`series`) and at which place along it (`x`)."""

    def __init__(self, sweep: Sweep) -> None:
        self.keys = sweep.keys()
        self.short = shortened(self.keys)
        self.x_key = self.keys[-1] if self.keys else ""
        self.values = list(dict.fromkeys(job.overrides.get(self.x_key, "") for job in sweep.jobs))
        self.is_numeric = all(as_number(value) is not None for value in self.values)
        if self.is_numeric:
            self.values.sort(key=float)
        self.series: dict[tuple[str, ...], list[Job]] = {}
        for job in sweep.jobs:
            self.series.setdefault(tuple(job.overrides.get(key, "") for key in self.keys[:-1]), []).append(job)
        for jobs in self.series.values():
            jobs.sort(key=lambda job: self.values.index(job.overrides.get(self.x_key, "")))
        self.has_figure = any(job.figure is not None for job in sweep.jobs)
        self.figure_names = sweep.figure_names()
        self.title = KINDS[sweep.kind]

    def jobs(self) -> list[Job]:
        """In the order of the lines, and along them."""
        return [job for jobs in self.series.values() for job in jobs]

    def shape(self) -> tuple[int, int]:
        """Columns and rows of the samples: a row for each line, or for a few lines, where all are equally long."""
        num = len(self.jobs())
        lengths = {len(jobs) for jobs in self.series.values()}
        length = lengths.pop() if len(lengths) == 1 else 1
        whole_lines = range(length, MAX_COLUMNS + 1, length) if 1 < length < num else ()
        columns = next((columns for columns in whole_lines if num <= columns * MAX_COLUMNS), min(num, MAX_COLUMNS))
        return columns, math.ceil(num / columns)

    def x(self, job: Job) -> float:
        """The place on the axis."""
        value = job.overrides.get(self.x_key, "")
        return float(value) if self.is_numeric else float(self.values.index(value))

    def y(self, job: Job) -> float | None:
        """FID, or the loss where no job has a FID; None for a job that did not finish."""
        if job.state != "finished":
            return None
        return job.figure if self.has_figure else job.loss

    def label(self, values: tuple[str, ...]) -> str:
        """What a line is called."""
        return ", ".join(f"{self.short[key]}={value}" for key, value in zip(self.keys, values, strict=False))


def shortened(keys: list[str]) -> dict[str, str]:
    """The last word of each dotted key, where that is enough to tell it from the others."""
    words = [key.rpartition(".")[2] for key in keys]
    return {key: word if words.count(word) == 1 else key for key, word in zip(keys, words, strict=True)}


def as_number(text: str) -> float | None:
    """The value of a text that is a finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def plot(axes: "Axes", layout: Layout) -> None:
    """The lines, with a cross at the lower edge for every job without a figure."""
    is_named = 1 < len(layout.series) <= MAX_LINES
    for index, (values, jobs) in enumerate(layout.series.items()):
        points = [(layout.x(job), y) for job in jobs if (y := layout.y(job)) is not None]
        label, colour = (layout.label(values), f"C{index}") if is_named else (None, "C0")
        axes.plot(*zip(*points, strict=True) if points else ([], []), marker="o", color=colour, label=label)
    missing = [job for job in layout.jobs() if layout.y(job) is None]
    if missing:
        label = "no figure" if any(job.state == "finished" for job in missing) else "failed"
        places = [layout.x(job) for job in missing]
        lower_edge = axes.get_xaxis_transform()
        axes.plot(places, [0.03] * len(places), "x", color="crimson", markersize=9, transform=lower_edge, label=label)
    draw_floor(axes, layout)
    label_axes(axes, layout)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def draw_floor(axes: "Axes", layout: Layout) -> None:
    """A dashed line at the FID of held-out images, if all jobs agree on it."""
    floors = {job.floor for job in layout.jobs() if job.figure is not None}
    if len(floors) == 1 and (floor := floors.pop()) is not None:
        axes.axhline(floor, color="grey", linestyle="--", label=f"held-out images: {floor:.3g}")


def label_axes(axes: "Axes", layout: Layout) -> None:
    """Names, scales and ticks; logarithmic where values span a decade or more."""
    from matplotlib.ticker import LogLocator, ScalarFormatter

    protocols = "\n".join(layout.figure_names) if len(layout.figure_names) <= 3 else f"{layout.title}, by several protocols"
    axes.set_ylabel(protocols if layout.has_figure else "final loss")
    axes.set_xlabel(layout.x_key)
    heights = [y for job in layout.jobs() if (y := layout.y(job)) is not None]
    if heights and min(heights) > 0 and max(heights) / min(heights) >= 10:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
    if not layout.is_numeric:
        axes.set_xticks(range(len(layout.values)), [textwrap.shorten(value, 24, placeholder="...") for value in layout.values])
        axes.margins(x=0.15)
    else:
        places = [float(value) for value in layout.values]
        if min(places) > 0 and max(places) / min(places) >= 10:
            axes.set_xscale("log")
        if len(places) <= 10:
            axes.set_xticks(places, layout.values)
            axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def show_samples(figure: "SubFigure", layout: Layout, columns: int, rows: int) -> None:
    """One tile for each job, with its values and its figure above it."""
    tiles = figure.subplots(rows, columns, squeeze=False).flat
    for tile in tiles:
        tile.set_axis_off()
    for tile, job in zip(figure.axes, layout.jobs(), strict=False):
        words = [f"{layout.short[key]}={job.overrides[key]}" for key in layout.keys if key in job.overrides]
        lines = [textwrap.shorten(word, 30, placeholder="...") for word in words]
        y = layout.y(job)
        figure_of_merit = "" if y is None else f"{layout.title} {y:.4g}" if layout.has_figure else f"loss {y:.4g}"
        picture = newest_samples(job.folder)
        if picture is not None:
            tile.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        elif job.state == "finished":
            fill(tile, "no samples", "grey")
        if job.state != "finished":
            fill(tile, "\n".join([job.state, *textwrap.wrap(job.error, 30)[:5]]), "crimson", over=picture is not None)
        tile.set_title("\n".join([*lines, figure_of_merit or job.state]), fontsize=8, linespacing=1.25)


def fill(tile: "Axes", text: str, colour: str, over: bool = False) -> None:
    """Writes a text in the middle of an empty tile, or in a box over its picture."""
    if not over:
        tile.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        tile.add_patch(_frame())
    box: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
    tile.text(0.5, 0.5, text, transform=tile.transAxes, ha="center", va="center", fontsize=7, color=colour, bbox=box)


def _frame() -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0.01, 0.01), 0.98, 0.98, facecolor="whitesmoke", edgecolor="lightgrey", hatch="//")


def newest_samples(folder: Path) -> Any | None:
    """The newest picture in `samples/` as an array, cut off at the last gap between images that is within CROP pixels."""
    import numpy as np
    from PIL import Image

    files = sorted((folder / "samples").glob("*.png"))
    if not files:
        return None
    with Image.open(files[-1]) as file:
        picture = np.asarray(file)
    gaps = picture == picture.max()
    gaps = gaps.all(axis=-1) if gaps.ndim == 3 else gaps
    height = _cut([bool(row.all()) for row in gaps])
    width = _cut([bool(column.all()) for column in gaps.T])
    return picture[:height, :width]


def _cut(is_gap: list[bool]) -> int:
    """Where to cut a side: after the last gap within reach."""
    if len(is_gap) <= CROP:
        return len(is_gap)
    ends = [index for index in range(CROP // 2, CROP) if is_gap[index] and not is_gap[index + 1]]
    return ends[-1] + 1 if ends else CROP
