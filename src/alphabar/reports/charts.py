"""Charts on a page: SVG with a legend, and with the values that the page's script shows under the pointer."""

import json
from collections.abc import Sequence

from markupsafe import Markup

from alphabar.evaluation.table import format_number
from alphabar.plotting.line_chart import BOTTOM, SOFT, TOP, Chart, SvgChart, chart_svg, css_colour
from alphabar.plotting.run_curves import all_charts, brief_charts
from alphabar.reports.html import render
from alphabar.reports.images import EmbeddedImage
from alphabar.runs.metrics_csv import RunMetrics


def render_curves(metrics: RunMetrics, picture: EmbeddedImage | None = None, is_brief: bool = False) -> Markup:
    """Returns charts of the figures over the same span of training; only training loss and FID if brief.

    picture: the curves.png that the run has left, which is shown where there is nothing to draw.
    """
    large, small = (brief_charts(metrics), []) if is_brief else all_charts(metrics)
    drawn = [[svg for chart in charts if (svg := render_chart(chart))] for charts in (large, small)]
    picture = None if any(drawn) else picture
    return render("curves", metrics_problem=metrics.problem, large=drawn[0], small=drawn[1], picture=picture)


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
