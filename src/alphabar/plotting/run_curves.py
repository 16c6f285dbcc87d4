"""The charts of a run, made from the columns of metrics.csv, and the picture curves.png."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from alphabar.plotting.line_chart import MAIN, PALETTE, Chart, Line, save_charts
from alphabar.runs.floor import floor_name
from alphabar.runs.metrics_csv import RunMetrics


def draw_curves(metrics: RunMetrics, path: Path) -> None:
    """Writes a PNG with the training loss, the held-out loss and FID, as far as these were logged."""
    save_charts(main_charts(metrics), path)


def main_charts(metrics: RunMetrics) -> list[Chart]:
    """Returns the charts of losses and FID, over the same span of training."""
    return _same_span(metrics, [training_loss(metrics), held_out_loss(metrics), fid(metrics)])


def all_charts(metrics: RunMetrics) -> tuple[list[Chart], list[Chart]]:
    """Returns the large charts and the small ones, over the same span of training."""
    large = [*main_charts(metrics), held_out_loss_by_snr(metrics)]
    return _same_span(metrics, large), _same_span(metrics, small_charts(metrics))


def overlaid_charts(runs: Mapping[str, RunMetrics], caption: str = "") -> list[Chart]:
    """Returns charts of training loss, held-out loss and FID with a line for each run, by its name; at most len(PALETTE) runs.

    caption: of the losses. FID is left out where runs measured it by several protocols.
    """
    weights = "_ema" if any("held_out/loss_ema" in metrics.columns for metrics in runs.values()) else ""
    titles = {"train/loss": "Training loss", f"held_out/loss{weights}": "Held-out loss"}
    fids = {name for metrics in runs.values() if (name := metrics.latest_fid()) is not None}
    charts = []
    for column, title in (titles | {name: "FID" for name in fids if len(fids) == 1}).items():
        lines = [_line(metrics, column, name, colour) for (name, metrics), colour in zip(runs.items(), PALETTE, strict=False)]
        if column in fids:
            charts.append(Chart(title, lines, (), True, is_mean=False))
        else:
            charts.append(Chart(title, _after_start(lines), (), True, caption))
    last_step = max((metrics.last_step() or 0 for metrics in runs.values()), default=0)
    return [chart._replace(last_step=last_step) for chart in charts]


def training_loss(metrics: RunMetrics) -> Chart:
    """Returns the training loss, over all noise levels and by level."""
    prefix = "train/loss_level_"
    names = metrics.starting_with(prefix)
    levels = [name.removeprefix(prefix).partition("_") for name in names]
    ends = {"0.00": ", next to data", "1.00": ", next to noise"}
    labels = [f"level {low} to {high}{ends.get(low, '') or ends.get(high, '')}" for low, _, high in levels]
    lines = [*_spectrum(metrics, names, labels), _line(metrics, "train/loss", "all levels", MAIN)]
    return Chart("Training loss by noise level", lines, (), True, "0 clean, 1 pure noise")


def held_out_loss(metrics: RunMetrics) -> Chart:
    """Returns the loss on a fixed set of held-out images and noise, of the live weights and of the averaged ones."""
    lines = [
        _line(metrics, "held_out/loss", "live weights", MAIN),
        _line(metrics, "held_out/loss_ema", "averaged weights", PALETTE[5]),
    ]
    return Chart("Held-out loss", _after_start(lines), (), True, "always the same images and noise")


def held_out_loss_by_snr(metrics: RunMetrics) -> Chart:
    """Returns the held-out loss by signal-to-noise ratio, of the averaged weights if it was logged, or else of the live ones."""
    prefix = "held_out/loss_ema_snr_" if metrics.starting_with("held_out/loss_ema_snr_") else "held_out/loss_snr_"
    names = metrics.starting_with(prefix)
    ranges = [name.removeprefix(prefix).partition("_") for name in names]
    labels = [f"above {low}, next to data" if high == "inf" else f"{low} to {high}" for low, _, high in ranges]
    labels = [f"{label}, next to noise" if low == "0" else label for label, (low, _, _) in zip(labels, ranges, strict=True)]
    weights = "averaged weights" if "_ema_" in prefix else "live weights"
    return Chart("Held-out loss by signal-to-noise ratio", _after_start(_spectrum(metrics, names, labels)), (), True, weights)


def fid(metrics: RunMetrics) -> Chart:
    """Returns every FID, by its full name, and the FID that held-out images reach.

    Where these are fewer, there is the mean FID over sets of as many samples, too, since it alone compares with that.
    """
    names = metrics.starting_with("fid/n")
    floors: dict[str, float] = {}
    means: list[str] = []
    for pair in filter(None, map(metrics.floor_pair, names)):
        means += [pair.name] if pair.is_mean else []
        if math.isfinite(pair.floor):
            floors[f"floor: held-out images, {floor_name(pair.name).removeprefix('fid/floor-')}"] = pair.floor
    shown = [*names, *means]
    lines = [_line(metrics, name, name, PALETTE[(2 * index + 5) % len(PALETTE)]) for index, name in enumerate(shown)]
    notes = ["several protocols: not to be compared"] if len(names) > 1 else []
    caption = "; ".join([*notes, "fid_mean alone compares with the floor"] if means else notes)
    return Chart("FID", lines, tuple(floors.items()), True, caption, is_mean=False)


def small_charts(metrics: RunMetrics) -> list[Chart]:
    """Returns the charts of the gradient's norm before it is clipped, of the learning rate and of the training speed."""
    return [
        Chart("Gradient norm", [_line(metrics, "train/grad_norm", "before clipping", PALETTE[2])], (), True, is_small=True),
        Chart("Learning rate", [_line(metrics, "train/lr", "learning rate", PALETTE[0])], is_small=True),
        Chart("Speed", [_line(metrics, "train/images_per_second", "images a second", PALETTE[7])], is_small=True),
    ]


def _same_span(metrics: RunMetrics, charts: Sequence[Chart]) -> list[Chart]:
    return [chart._replace(last_step=metrics.last_step() or 0) for chart in charts]


def _line(metrics: RunMetrics, column: str, name: str, colour: str) -> Line:
    return Line(name, *metrics.columns.get(column, ([], [])), colour)


def _spectrum(metrics: RunMetrics, columns: Sequence[str], labels: Sequence[str]) -> list[Line]:
    """Returns lines whose colours run through the palette in order."""
    colours = [PALETTE[index * len(PALETTE) // len(columns)] for index in range(len(columns))]
    return [_line(metrics, *each) for each in zip(columns, labels, colours, strict=True)]


def _after_start(lines: Sequence[Line]) -> list[Line]:
    """Returns the lines without step 0, whose loss, that of the untrained network, would flatten all that follows."""
    kept = [[(step, value) for step, value in zip(line.steps, line.values, strict=True) if step > 0] for line in lines]
    return [
        line._replace(steps=[step for step, _ in points], values=[value for _, value in points])
        for line, points in zip(lines, kept, strict=True)
    ]
