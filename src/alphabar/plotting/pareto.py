"""The picture of a sweep over settings that differ in cost: the figure of merit over the cost of an image."""

from pathlib import Path
from typing import TYPE_CHECKING

from alphabar.plotting.figure import figure_file, round_ticks, scale_y, set_ticks
from alphabar.plotting.sweep import draw_floor
from alphabar.runs.sweeps.pareto import CostTradeOff, Setting, pareto_front
from alphabar.runs.sweeps.sweep import METRICS, NETWORK_EVALUATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS_TITLES = {NETWORK_EVALUATIONS: "network evaluations an image", "seconds_per_image": "seconds an image, on one device"}
MAX_COLOURS = 8
MIN_TICK_RATIO = 1.3  # of two neighbouring ticks, so that their labels do not touch


def draw_pareto(trade_off: CostTradeOff, path: Path) -> None:
    """Writes a PNG with a panel for each known cost and a line for each combination of overrides other than the number of steps."""
    names = trade_off.costs()
    with figure_file(path, 5.6 * len(names) + 1.5, 4.4) as figure:
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            plot_cost(axes, trade_off, name)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")


def plot_cost(axes: "Axes", trade_off: CostTradeOff, name: str) -> None:
    """Draws the figure of merit over one cost, the settings that nothing beats, and the recommended one."""
    settings = trade_off.settings
    series: dict[str, list[Setting]] = {}
    for setting in settings:
        series.setdefault(trade_off.label_without_steps(setting), []).append(setting)
    for index, (label, members) in enumerate(series.items()):
        colour = f"C{index}" if len(series) <= MAX_COLOURS else "grey"
        places = sorted((each.costs[name], each.figure) for each in members)
        axes.plot(*zip(*places, strict=True), "o-", color=colour, markersize=4, linewidth=1, label=label or "all settings")
    front = [(each.costs[name], each.figure) for each in pareto_front(settings, name)]
    style = {"color": "black", "linewidth": 6, "alpha": 0.12, "drawstyle": "steps-post", "zorder": 0}
    axes.plot(*zip(*front, strict=True), **style, label="nothing beats these")
    chosen = trade_off.recommended()
    label = f"use {trade_off.label(chosen)}"
    axes.plot([chosen.costs[name]], [chosen.figure], "*", color="crimson", markersize=14, label=label)
    draw_floor(axes, [each.job for each in settings])
    axes.set(xlabel=AXIS_TITLES[name], xscale="log", ylabel=METRICS[trade_off.metric])
    scale_y(axes, [each.figure for each in settings])
    set_cost_ticks(axes, name, sorted({each.costs[name] for each in settings}))
    axes.grid(alpha=0.3)


def set_cost_ticks(axes: "Axes", name: str, places: list[float]) -> None:
    """Puts ticks at the numbers of evaluations if these are few and their labels do not touch, or else at round values."""
    if name != NETWORK_EVALUATIONS or len(places) > 12:
        set_ticks(axes.xaxis, round_ticks(*axes.get_xlim(), is_logarithmic=True))
        return
    kept = places[:1]
    for place in places:
        if place >= MIN_TICK_RATIO * kept[-1]:
            kept.append(place)
    set_ticks(axes.xaxis, kept)
