"""The picture of a sweep: the figure of merit over the swept values, and samples of every job."""

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from alphabar.plotting.figure import figure_file, round_ticks, scale_y, set_ticks, spans_decades
from alphabar.plotting.sample_corner import newest_samples
from alphabar.runs.sweeps.sweep import METRICS, SEED_KEY, Job, Sweep, mean_and_deviation, parse_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

TILE = 2.0  # inches
PLOT_HEIGHT = 4.0  # inches
MAX_COLUMNS = 6
SPREAD = 0.5  # of the way from one category to the next, over which the points of several lines are spread
MAX_LINES = 10  # with more lines than these, all have the same colour and no name


def draw_sweep(sweep: Sweep, path: Path) -> None:
    """Writes a PNG with the figure of merit (or else the final loss) over the parameter that was swept last.

    There is a line for each combination of the other parameters, or only points where the values are no numbers, and seeds are
    folded into means with their standard deviations; below is the newest sample grid of every job, if any job has one
    or did not finish.
    """
    layout = SweepLayout(sweep)
    columns, rows = layout.tile_grid()
    title_lines = len(layout.keys) + 1
    has_tiles = any(job.state != "finished" or newest_samples(job.folder) is not None for job in sweep.jobs)
    heights = [PLOT_HEIGHT, rows * (TILE + 0.22 * title_lines)] if has_tiles else [PLOT_HEIGHT]
    with figure_file(path, max(8.0, columns * (TILE + 0.25) if has_tiles else 0), sum(heights)) as figure:
        parts = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        plot_lines(figure.add_subfigure(parts[0]).subplots(), layout)
        if has_tiles:
            show_samples(figure.add_subfigure(parts[1]), layout, columns, rows)


class SweepLayout:
    """Assigns each job to a line (`series`, by its values of all keys but the last) and to a place along it.

    Jobs that differ in their seed alone have the same place; where nothing but the seed was swept, each seed has its own.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.keys = sweep.swept_keys()
        self.short = shortened(self.keys)
        varied = [key for key in self.keys if key != SEED_KEY] or self.keys
        self.x_key = varied[-1] if varied else ""
        self.line_keys = varied[:-1]
        self.values = list(dict.fromkeys(job.overrides.get(self.x_key, "") for job in sweep.jobs))
        self.is_numeric = self.x_key != SEED_KEY and all(parse_number(value) is not None for value in self.values)
        if self.is_numeric:
            self.values.sort(key=float)
        self.series: dict[tuple[str, ...], list[Job]] = {}
        for job in sweep.jobs:
            self.series.setdefault(tuple(job.overrides.get(key, "") for key in self.line_keys), []).append(job)
        for jobs in self.series.values():
            jobs.sort(key=lambda job: self.values.index(job.overrides.get(self.x_key, "")))
        self.has_figure = any(job.figure is not None for job in sweep.jobs)
        self.figure_names = sweep.figure_names()
        self.metric_title = METRICS[sweep.metric]

    def jobs(self) -> list[Job]:
        """Returns all jobs, line by line."""
        return [job for jobs in self.series.values() for job in jobs]

    def tile_grid(self) -> tuple[int, int]:
        """Returns columns and rows of the samples: a row for each line, or for a few lines, where all are equally long."""
        num = len(self.jobs())
        lengths = {len(jobs) for jobs in self.series.values()}
        length = lengths.pop() if len(lengths) == 1 else 1
        whole_lines = range(length, MAX_COLUMNS + 1, length) if 1 < length < num else ()
        columns = next((columns for columns in whole_lines if num <= columns * MAX_COLUMNS), min(num, MAX_COLUMNS))
        return columns, math.ceil(num / columns)

    def x(self, job: Job) -> float:
        """Returns the job's place on the axis: its value, or the index of its value where values are not numbers."""
        value = job.overrides.get(self.x_key, "")
        return float(value) if self.is_numeric else float(self.values.index(value))

    def y(self, job: Job) -> float | None:
        """Returns the figure of merit, or the loss where no job has one; None for a job that did not finish."""
        if job.state != "finished":
            return None
        return job.figure if self.has_figure else job.loss

    def heights(self) -> list[float]:
        """Returns every y that there is."""
        return [y for job in self.jobs() if (y := self.y(job)) is not None]

    def label(self, values: tuple[str, ...]) -> str:
        """Returns the name of a line."""
        return ", ".join(f"{self.short[key]}={value}" for key, value in zip(self.line_keys, values, strict=True))


def shortened(keys: list[str]) -> dict[str, str]:
    """Returns the last word of each dotted key, or the whole key where other keys end in that word too."""
    words = [key.rpartition(".")[2] for key in keys]
    return {key: word if words.count(word) == 1 else key for key, word in zip(keys, words, strict=True)}


def plot_lines(axes: "Axes", layout: SweepLayout) -> None:
    """Draws the lines, or points where values are no numbers, with a cross at the lower edge for every job without a figure."""
    is_named = 1 < len(layout.series) <= MAX_LINES
    for index, (values, jobs) in enumerate(layout.series.items()):
        label, colour = (layout.label(values), f"C{index}") if is_named else (None, "C0")
        aside = 0.0 if layout.is_numeric else SPREAD * ((index + 0.5) / len(layout.series) - 0.5)
        plot_series(axes, layout, jobs, aside, label, colour)
    if layout.x_key == SEED_KEY and len(layout.heights()) > 1:
        mean, deviation = mean_and_deviation(layout.heights())
        axes.axhline(mean, color="C0", linewidth=1, label=f"mean {mean:.4g} \u00b1 {deviation:.2g}")
    without = [job for job in layout.jobs() if layout.y(job) is None]
    if without:
        label = "no figure" if any(job.state == "finished" for job in without) else "failed"
        places = [layout.x(job) for job in without]
        lower_edge = axes.get_xaxis_transform()
        axes.plot(places, [0.03] * len(places), "x", color="crimson", markersize=9, transform=lower_edge, label=label)
    draw_floor(axes, layout.jobs())
    label_axes(axes, layout)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def plot_series(axes: "Axes", layout: SweepLayout, jobs: list[Job], aside: float, label: str | None, colour: str) -> None:
    """Draws the means of one line over the seeds, with their standard deviations, and a small dot for each seed.

    aside: how far points stand beside their places, so that those of several lines do not hide each other.
    """
    over_seeds: dict[float, list[float]] = {}
    for job in jobs:
        if (y := layout.y(job)) is not None:
            over_seeds.setdefault(layout.x(job) + aside, []).append(y)
    means = {x: mean_and_deviation(values) for x, values in over_seeds.items()}
    heights, spreads = [mean for mean, _ in means.values()], [deviation or 0.0 for _, deviation in means.values()]
    style = "o-" if layout.is_numeric else "o"
    if any(spreads):
        label = f"{label or 'mean'} \u00b1 std over seeds"
        axes.errorbar(list(means), heights, spreads, fmt=style, capsize=4, color=colour, label=label)
        dots = [(x, y) for x, values in over_seeds.items() for y in values]
        axes.plot(*zip(*dots, strict=True), ".", color=colour, alpha=0.4)
    else:
        axes.plot(list(means), heights, style, color=colour, label=label)


def draw_floor(axes: "Axes", jobs: list[Job]) -> None:
    """Draws a dashed line at the figure of held-out images, if all jobs agree on it."""
    floors = {job.floor for job in jobs if job.figure is not None}
    if len(floors) == 1 and (floor := floors.pop()) is not None:
        axes.axhline(floor, color="grey", linestyle="--", linewidth=1, label=f"held-out images: {floor:.3g}")


def label_axes(axes: "Axes", layout: SweepLayout) -> None:
    """Sets names, scales and ticks; scales are logarithmic where values span a decade or more."""
    names = "\n".join(layout.figure_names) if len(layout.figure_names) <= 3 else f"{layout.metric_title}, by several protocols"
    axes.set_ylabel(names if layout.has_figure else "final loss")
    axes.set_xlabel(layout.x_key)
    scale_y(axes, layout.heights())
    if not layout.is_numeric:
        axes.set_xticks(range(len(layout.values)), [textwrap.shorten(value, 24, placeholder="...") for value in layout.values])
        axes.margins(x=0.15)
    else:
        places = [float(value) for value in layout.values]
        if spans_decades(places):
            axes.set_xscale("log")
        if len(places) <= 10:
            set_ticks(axes.xaxis, places, layout.values)
        else:
            set_ticks(axes.xaxis, round_ticks(*axes.get_xlim(), spans_decades(places)))
    axes.grid(alpha=0.3)


def show_samples(figure: "SubFigure", layout: SweepLayout, columns: int, rows: int) -> None:
    """Draws a tile for each job, with its values and its figure above it."""
    for tile in figure.subplots(rows, columns, squeeze=False).flat:
        tile.set_axis_off()
    for tile, job in zip(figure.axes, layout.jobs(), strict=False):
        picture = newest_samples(job.folder)
        if picture is not None:
            tile.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        elif job.state == "finished":
            write_on_tile(tile, "no samples", "grey", is_empty=True)
        if job.state != "finished":
            lines = [job.state, *textwrap.wrap(job.error, 30)[:5]]
            write_on_tile(tile, "\n".join(lines), "crimson", is_empty=picture is None)
        tile.set_title(tile_title(layout, job), fontsize=8, linespacing=1.25)


def tile_title(layout: SweepLayout, job: Job) -> str:
    """Returns the job's values of the swept keys, one per line, and its figure."""
    overrides = [f"{layout.short[key]}={job.overrides[key]}" for key in layout.keys if key in job.overrides]
    y = layout.y(job)
    figure = job.state if y is None else f"{layout.metric_title if layout.has_figure else 'loss'} {y:.4g}"
    return "\n".join([*(textwrap.shorten(line, 30, placeholder="...") for line in overrides), figure])


def write_on_tile(tile: "Axes", text: str, colour: str, is_empty: bool) -> None:
    """Writes a text in the middle of an empty tile, or in a box over its picture."""
    from matplotlib.patches import Rectangle

    if is_empty:
        tile.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        tile.add_patch(Rectangle((0.01, 0.01), 0.98, 0.98, facecolor="whitesmoke", edgecolor="lightgrey", hatch="//"))
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
    tile.text(0.5, 0.5, text, transform=tile.transAxes, ha="center", va="center", fontsize=7, color=colour, bbox=box)
