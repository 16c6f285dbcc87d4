"""Line charts over optimizer steps, drawn alike in PNG files and as SVG on a page."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alphabar.plotting.figure import STYLE, figure_file, round_ticks, set_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#2f6fd0", "#1691a8", "#159a6c", "#6f9c1c", "#b98a00", "#d2641a", "#c93a56", "#8e4bbd")
MAIN, SOFT, GRID, AXIS, FACE = "#1b2330", "#5b6675", "#eceff3", "#dfe3e9", "#ffffff"
CSS_COLOURS = dict(zip((MAIN, SOFT, GRID, AXIS, FACE), ("--ink", "--soft", "--rule", "--line", "--card"), strict=True)) | {
    colour: f"--c{index}" for index, colour in enumerate(PALETTE)
}  # variables of the page's style sheet that have these values in its light theme

SIZE, SMALL_SIZE = (460, 240), (340, 150)  # of an SVG, in its own units
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 28  # margins of an SVG
LARGEST, MAX_STEP = 1e30, 10**15  # values and steps beyond these are left out
MAX_POINTS = 300  # of a line
MAX_MARKED = 24  # lines of up to so many points have a mark at each


class Line(NamedTuple):
    """A named line in one of the colours above."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: str


class Chart(NamedTuple):
    """Lines over optimizer steps, and named horizontal levels.

    is_logarithmic: whether the scale is logarithmic where all values are positive. last_step: where the axis of steps ends; 0: with
    the last point. is_mean: whether a point of a line with more than MAX_POINTS is the mean of several values, or else the last.
    """

    title: str
    lines: Sequence[Line]
    levels: Sequence[tuple[str, float]] = ()
    is_logarithmic: bool = False
    caption: str = ""
    last_step: int = 0
    is_small: bool = False
    is_mean: bool = True

    def thinned(self) -> "Chart":
        """Returns the chart with at most MAX_POINTS in a line, without lines that have none, and with a caption that says so."""
        thin = [thinned(line, self.is_mean) for line in self.lines]
        levels = [(name, value) for name, value in self.levels if abs(value) < LARGEST]
        lines = [line for line, _ in thin if line.steps]
        values = [value for line in lines for value in line.values] + [value for _, value in levels]
        is_logarithmic = self.is_logarithmic and bool(values) and min(values) > 1 / LARGEST
        size = max((size for _, size in thin), default=1)
        notes = [self.caption, "log scale" * is_logarithmic]
        notes += [f"{'means of' if self.is_mean else 'one of'} {size} values"] if size > 1 else []
        caption = ", ".join(note for note in notes if note)
        return self._replace(lines=lines, levels=levels, is_logarithmic=is_logarithmic, caption=caption)


class SvgChart(NamedTuple):
    """A thinned chart as the inner part of an <svg>. places: of the points of each line, in units of the SVG."""

    chart: Chart
    content: str
    places: list[list[tuple[float, float]]]
    width: int
    height: int


def thinned(line: Line, is_mean: bool = True) -> tuple[Line, int]:
    """Returns the line without NaN and infinity and with at most MAX_POINTS, the last of which is kept as it is.

    Also returns of how many neighbours each other point is the mean, or else the last.
    """
    points = [(x, y) for x, y in zip(line.steps, line.values, strict=True) if 0 <= x < MAX_STEP and abs(y) < LARGEST]
    size = math.ceil(len(points) / (MAX_POINTS - 1)) if len(points) > MAX_POINTS else 1
    if size > 1:
        groups = [points[start : start + size] for start in range(0, len(points) - 1, size)][:-1]
        means = [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
        points = [*(means if is_mean else [group[-1] for group in groups]), points[-1]]
    return line._replace(steps=[x for x, _ in points], values=[y for _, y in points]), size


def plot_chart(axes: "Axes", chart: Chart) -> None:
    """Draws a thinned chart, without its title and legend."""
    for line in chart.lines:
        axes.plot(
            line.steps,
            line.values,
            color=line.colour,
            linewidth=2.2 if line.colour == MAIN else 1.6,
            marker="o" if len(line.steps) <= MAX_MARKED else "",
            markersize=5,
            markerfacecolor=FACE,
            clip_on=False,
            label=line.name,
        )
    for name, value in chart.levels:
        axes.axhline(value, color=SOFT, linewidth=1.6, dashes=(3, 2.5), clip_on=False, label=f"{name}: {value:.4g}")
    axes.set_xlim(0, max(chart.last_step, *(line.steps[-1] for line in chart.lines)) or 1)
    axes.margins(y=0.06)
    if chart.is_logarithmic:
        axes.set_yscale("log")
    steps = round_ticks(*axes.get_xlim())
    set_ticks(axes.xaxis, steps, [f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}" for step in steps])
    set_ticks(axes.yaxis, round_ticks(*axes.get_ylim(), chart.is_logarithmic))
    axes.grid(axis="y", color=GRID, clip_on=False)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(AXIS)
    axes.tick_params(length=0, pad=6, labelcolor=SOFT)


def save_charts(charts: Sequence[Chart], path: Path) -> None:
    """Writes a PNG with the charts side by side, each with its legend below. Writes nothing if there is nothing to draw."""
    drawn = [chart for chart in (chart.thinned() for chart in charts) if chart.lines]
    if not drawn:
        return
    with figure_file(path, 5.5 * len(drawn), 5) as figure:
        for axes, chart in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
            plot_chart(axes, chart)
            axes.set_title(f"{chart.title}\n{chart.caption}", fontsize="medium")
            axes.set_xlabel("optimizer step")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2 if len(chart.lines) > 2 else 1)


def chart_svg(chart: Chart) -> SvgChart | None:
    """Returns the chart as SVG in the colours of the page, or None if it has no points."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    chart = chart.thinned()
    if not chart.lines:
        return None
    width, height = SMALL_SIZE if chart.is_small else SIZE
    with rc_context(STYLE):
        figure, file = Figure(figsize=(width / 72, height / 72), dpi=72), io.StringIO()
        axes = figure.add_axes((LEFT / width, BOTTOM / height, 1 - (LEFT + RIGHT) / width, 1 - (TOP + BOTTOM) / height))
        plot_chart(axes, chart)
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    places = []
    for line in chart.lines:
        points = axes.transData.transform(list(zip(line.steps, line.values, strict=True)))
        places.append([(round(float(x), 1), round(height - float(y), 1)) for x, y in points])
    return SvgChart(chart, svg_for_page(file.getvalue()), places, width, height)


def css_colour(colour: str) -> str:
    """Returns the variable of the style sheet for one of the colours above, so that it follows the page's theme."""
    return f"var({CSS_COLOURS[colour]})"


def svg_for_page(svg: str) -> str:
    """Returns what is inside the <svg>, as a page can hold it several times.

    Styles become attributes, since the page's policy forbids inline styles, and of the ids only those of marks remain, which are
    random; fonts are the page's.
    """
    content = svg[svg.index("</defs>") + len("</defs>") : svg.rindex("</svg>")]
    content = re.sub(r' id="(?!m[0-9a-f]+")[^"]*"', "", content)
    content = re.sub(r' style="([^"]*)"', lambda style: _attributes(style[1]), content)
    return re.sub(r"\s*\n\s*", " ", content).strip()


def _attributes(style: str) -> str:
    found = [declaration.split(": ", 1) for declaration in style.split("; ")]
    values = {name: css_colour(value) if value in CSS_COLOURS else value for name, value in found if not name.startswith("font")}
    return "".join(f' {name}="{value}"' for name, value in values.items())
