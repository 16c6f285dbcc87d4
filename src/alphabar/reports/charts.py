"""Charts on a page: SVG with a legend, and with the values that the page's script shows under the pointer."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice

from markupsafe import Markup

from alphabar.evaluation.table import format_number
from alphabar.plotting.line_chart import BOTTOM, CSS_COLOURS, PALETTE, SOFT, TOP, Chart, SvgChart, chart_svg, css_colour
from alphabar.plotting.run_curves import all_charts, overlaid_charts
from alphabar.plotting.sweep_svg import sweep_svg
from alphabar.reports.html import render
from alphabar.reports.images import EmbeddedImage
from alphabar.runs.metrics_csv import RunMetrics
from alphabar.runs.sweeps.sweep import Sweep


def render_curves(metrics: RunMetrics, picture: EmbeddedImage | None = None) -> Markup:
    """Returns charts of the figures over the same span of training.

    picture: the curves.png that the run has left, which is shown where there is nothing to draw.
    """
    large, small = map(render_charts, all_charts(metrics))
    return render("curves", problems=[metrics.problem], large=large, small=small, picture=None if metrics.columns else picture)


def render_overlay(runs: Mapping[str, RunMetrics], caption: str) -> Markup:
    """Returns charts of losses and FID with a line for each of the first runs. caption: of the losses."""
    with_figures = {name: metrics for name, metrics in runs.items() if metrics.columns}
    shown = dict(islice(with_figures.items(), len(PALETTE)))
    num = f"the first {len(shown)} of {len(with_figures)} jobs in the table" if len(shown) < len(with_figures) else ""
    charts = render_charts(overlaid_charts(shown, ", ".join(filter(None, (num, caption)))))
    problems = [f"{name}: {metrics.problem}" for name, metrics in runs.items() if metrics.problem]
    return render("curves", problems=problems, large=charts, small=[], picture=None)


def render_sweep_chart(sweep: Sweep) -> Markup:
    """Returns the chart of the figure of merit over what was swept; nothing if there are not two figures."""
    svg = sweep_svg(sweep)
    return Markup("") if svg is None else render("sweep_chart", svg=svg._replace(content=Markup(svg.content)), colours=CSS_COLOURS)


def render_charts(charts: Sequence[Chart]) -> list[Markup]:
    """Returns the charts that have a line of two points or more: a single figure needs no chart."""
    return [render_chart(chart) for chart in charts if any(len(line.steps) > 1 for line in chart.thinned().lines)]


def render_chart(chart: Chart) -> Markup:
    """Returns the chart with its title and legend; nothing if it has no points."""
    svg = chart_svg(chart)
    if svg is None:
        return Markup("")
    lines = [(css_colour(line.colour), line.name, line.values[-1]) for line in svg.chart.lines]
    return render(
        "chart",
        chart=svg.chart,
        width=svg.width,
        height=svg.height,
        top=TOP,
        bottom=svg.height - BOTTOM,
        label=f"{chart.title}: " + "; ".join(f"{name} ends at {format_number(value)}" for _, name, value in lines),
        points=json.dumps(point_values(svg), separators=(",", ":")),
        content=Markup(svg.content),
        lines=lines,
        levels=svg.chart.levels,
        level_colour=css_colour(SOFT),
    )


def point_values(svg: SvgChart) -> Sequence[dict[str, object]]:
    """Returns the name and colour of each line, and of each of its points (x, y, step, value)."""
    return [
        {
            "name": line.name,
            "colour": css_colour(line.colour),
            "points": [
                [x, y, step, format_number(value)] for (x, y), step, value in zip(places, line.steps, line.values, strict=True)
            ],
        }
        for line, places in zip(svg.chart.lines, svg.places, strict=True)
    ]
