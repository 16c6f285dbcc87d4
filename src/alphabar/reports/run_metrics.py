"""The figures of a run, and charts of them."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from alphabar.reports.chart import Chart, Line, draw
from alphabar.reports.html import render
from alphabar.reports.images import EmbeddedImage
from alphabar.training.callbacks.curves import name_of_floor
from alphabar.training.loggers.metrics_file import read

NUM_COLOURS = 8  # of lines, in the style sheet


@dataclass(frozen=True)
class RunMetrics:
    """columns: (steps, values) by name. problem: what is wrong with the file, or nothing."""

    columns: dict[str, tuple[list[int], list[float]]]
    problem: str = ""

    def last(self, name: str) -> float | None:
        """The newest value."""
        return self.columns[name][1][-1] if name in self.columns else None

    def last_step(self) -> int | None:
        """Of the last row."""
        return max((steps[-1] for steps, _ in self.columns.values()), default=None)

    def latest_fid(self) -> str | None:
        """The FID that was measured last, by name."""
        names = [name for name in self.columns if name.startswith("fid/n")]
        return max(names, key=lambda name: self.columns[name][0][-1], default=None)

    def floor(self, fid: str) -> float | None:
        """That of a FID."""
        return self.last(name_of_floor(fid, list(self.columns)))


def read_metrics(path: Path) -> RunMetrics:
    """Reads metrics.csv; cells that are no numbers are left out, and counted. Never raises for a bad file."""
    if not path.exists():
        return RunMetrics({})
    try:
        rows = read(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return RunMetrics({}, f"{path.name} cannot be read: {type(error).__name__}")
    columns: dict[str, tuple[list[int], list[float]]] = {}
    bad = 0
    for row in rows:
        try:
            step = int(row["step"])
        except (KeyError, TypeError, ValueError):
            bad += 1
            continue
        for name, cell in row.items():
            if isinstance(name, str) and name != "step" and cell:
                steps, values = columns.setdefault(name, ([], []))
                try:
                    values.append(float(cell))
                    steps.append(step)
                except (TypeError, ValueError):
                    bad += 1
    filled = {name: found for name, found in columns.items() if found[0]}
    problem = f"{path.name}: left out {bad} rows or cells that are no numbers" if bad else ""
    return RunMetrics(filled, problem or ("" if filled else f"{path.name} has no figures"))


def render_curves(metrics: RunMetrics, picture: EmbeddedImage | None = None, is_brief: bool = False) -> Markup:
    """Returns charts of the figures over the same span of training; only the two main ones if brief.

    picture: the curves.png that the run has left, which is shown where there is nothing to draw.
    """
    large = [losses(metrics), fids(metrics)] if is_brief else [losses(metrics), held_out(metrics), fids(metrics), by_snr(metrics)]
    small = [] if is_brief else [gradients(metrics), rate(metrics), speed(metrics)]
    last_step = metrics.last_step() or 0
    drawn = [[Markup(svg) for chart in group if (svg := draw(chart._replace(last_step=last_step)))] for group in (large, small)]
    picture = None if any(drawn) else picture
    return render("curves", metrics_problem=metrics.problem, large=drawn[0], small=drawn[1], picture=picture)


def _line(metrics: RunMetrics, column: str, name: str, style: str) -> Line:
    return Line(name, *metrics.columns.get(column, ([], [])), style)


def losses(metrics: RunMetrics) -> Chart:
    """Training loss, in all and by noise level."""
    levels = [name for name in metrics.columns if name.startswith("train/loss_level_")]
    lines = []
    for index, name in enumerate(levels):
        low, _, high = name.removeprefix("train/loss_level_").partition("_")
        lines.append(_line(metrics, name, f"level {low} to {high}", f"c{index * NUM_COLOURS // len(levels)}"))
    lines.append(_line(metrics, "train/loss", "all levels", "main"))
    return Chart("Training loss by noise level", lines, (), True, "0 clean, 1 pure noise")


def held_out(metrics: RunMetrics) -> Chart:
    """Loss on a fixed bank of held-out images."""
    raw = _line(metrics, "held_out/loss", "live weights", "main")
    averaged = _line(metrics, "held_out/loss_ema", "averaged weights", "c5")
    return Chart("Held-out loss", (_trained(raw), _trained(averaged)), (), True, "always the same images and noise")


def _trained(line: Line) -> Line:
    kept = [(step, value) for step, value in zip(line.steps, line.values, strict=True) if step > 0]
    return Line(line.name, [step for step, _ in kept], [value for _, value in kept], line.style)


def by_snr(metrics: RunMetrics) -> Chart:
    """Held-out loss of the averaged weights, or else of the live ones, by signal-to-noise ratio."""
    stem = next((stem for stem in ("held_out/loss_ema_snr_", "held_out/loss_snr_") if _any(metrics, stem)), "held_out/loss_snr_")
    names = [name for name in metrics.columns if name.startswith(stem)]
    lines = []
    for index, name in enumerate(names):
        low, _, high = name.removeprefix(stem).partition("_")
        label = f"above {low}" if high == "inf" else f"{low} to {high}"
        lines.append(_trained(_line(metrics, name, label, f"c{index * NUM_COLOURS // len(names)}")))
    weights = "averaged weights" if "_ema_" in stem else "live weights"
    return Chart("Held-out loss by signal-to-noise ratio", lines, (), True, weights)


def _any(metrics: RunMetrics, stem: str) -> bool:
    return any(name.startswith(stem) for name in metrics.columns)


def fids(metrics: RunMetrics) -> Chart:
    """Every FID, by its full name, and what held-out images reach."""
    names = [name for name in metrics.columns if name.startswith("fid/n")]
    floors: dict[str, float] = {}
    for name in names:
        floor, column = metrics.floor(name), name_of_floor(name, list(metrics.columns))
        if floor is not None and math.isfinite(floor):
            floors[f"floor: held-out images, {column.removeprefix('fid/floor-')}"] = floor
    lines = [_line(metrics, name, name, f"c{(2 * index + 5) % NUM_COLOURS}") for index, name in enumerate(names)]
    return Chart(
        "FID", lines, tuple(floors.items()), True, "" if len(names) < 2 else "several protocols: not to be compared", is_mean=False
    )


def gradients(metrics: RunMetrics) -> Chart:
    """Their norm."""
    return Chart("Gradient norm", [_line(metrics, "train/grad_norm", "before clipping", "c2")], (), True, is_small=True)


def rate(metrics: RunMetrics) -> Chart:
    """The learning rate."""
    return Chart("Learning rate", [_line(metrics, "train/lr", "learning rate", "c0")], is_small=True)


def speed(metrics: RunMetrics) -> Chart:
    """Images a second."""
    return Chart("Speed", [_line(metrics, "train/images_per_second", "images a second", "c7")], is_small=True)
