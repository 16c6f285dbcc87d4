"""Line charts as SVG that follows the colours of the page."""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import escape as text

from alphabar.reports.html import format_number as number

WIDTH, HEIGHT = 460, 240
SMALL_WIDTH, SMALL_HEIGHT = 340, 150
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 28  # margins
LARGEST, MAX_STEP = 1e30, 10**15  # what is larger is no figure
MAX_POINTS = 300  # of a line
MAX_MARKED = 24  # points of a line that are marked, since they are few


class Line(NamedTuple):
    """style: a class of the style sheet, which gives it its colour."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    style: str


class Chart(NamedTuple):
    """Over optimizer steps. levels: horizontal lines, by name. is_logarithmic: where all values are above 0.

    last_step: where the axis ends; 0: with the last point. is_mean: whether points of long lines are means of several.
    """

    title: str
    lines: Sequence[Line]
    levels: Sequence[tuple[str, float]] = ()
    is_logarithmic: bool = False
    caption: str = ""
    last_step: int = 0
    is_small: bool = False
    is_mean: bool = True


class Axis(NamedTuple):
    """From values to places between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high = self.scaled(self.low), self.scaled(self.high)
        return round(self.start + (self.scaled(value) - low) / (high - low) * (self.end - self.start), 1)

    def scaled(self, value: float) -> float:
        return math.log10(value) if self.is_logarithmic else value

    def ticks(self) -> list[float]:
        """Round values: three to seven of them."""
        if not self.is_logarithmic:
            return _round_values(self.low, self.high)
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            stride = max(1, len(exponents) // 6)
            found = [factor * 10.0**exponent for exponent in exponents[::stride] for factor in factors]
            inside = [value for value in found if self.low <= value <= self.high]
            if len(inside) >= 3:
                return inside
        return _round_values(self.low, self.high)


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def draw(chart: Chart) -> str:
    """The figure with its legend; nothing where there are no points."""
    found = [thinned(line, chart.is_mean) for line in chart.lines]
    lines = [line for line, _ in found if line.steps]
    if not lines:
        return ""
    levels = [(name, value) for name, value in chart.levels if abs(value) < LARGEST]
    values = [value for line in lines for value in line.values] + [value for _, value in levels]
    is_logarithmic = chart.is_logarithmic and min(values) > 1 / LARGEST
    width, height = (SMALL_WIDTH, SMALL_HEIGHT) if chart.is_small else (WIDTH, HEIGHT)
    across = Axis(0, max(chart.last_step, *(line.steps[-1] for line in lines)) or 1, LEFT, width - RIGHT)
    up = _axis(min(values), max(values), height - BOTTOM, is_logarithmic)
    parts = _grid(across, up)
    for _, value in levels:
        parts.append(_rule("level", across, up.place(value)))
    content = []
    for line in lines:
        places = [(across.place(x), up.place(y)) for x, y in zip(line.steps, line.values, strict=True)]
        parts.append(_drawn(line.style, places))
        content.append({"name": line.name, "style": line.style, "points": _data(line, places)})
    label = f"{chart.title}: " + "; ".join(f"{line.name} ends at {number(line.values[-1])}" for line in lines)
    svg = (
        f'<svg viewBox="0 0 {width} {height}" role="img" tabindex="0" aria-label="{text(label)}" '
        f'data-lines="{text(json.dumps(content, separators=(",", ":")))}" data-bottom="{height - BOTTOM}" data-top="{TOP}">'
        f"{''.join(parts)}</svg>"
    )
    size = max(size for _, size in found)
    drawn = f"{'means of' if chart.is_mean else 'one of'} {size} values"
    words = ", ".join([chart.caption] * bool(chart.caption) + ["log scale"] * is_logarithmic + [drawn] * (size > 1))
    title = f"<figcaption>{text(chart.title)} <small>{text(words)}</small></figcaption>"
    return f'<figure class="chart">{title}{svg}{_legend(lines, levels)}</figure>'


def thinned(line: Line, is_mean: bool = True) -> tuple[Line, int]:
    """Without what is no number, or NaN; of a long one MAX_POINTS remain, and its last point as it is.

    Also returns of how many neighbours the others are the mean, or else the last.
    """
    pairs = [(x, y) for x, y in zip(line.steps, line.values, strict=True) if abs(x) < MAX_STEP and abs(y) < LARGEST]
    size = math.ceil(len(pairs) / (MAX_POINTS - 1)) if len(pairs) > MAX_POINTS else 1
    if size > 1:
        groups = [pairs[start : start + size] for start in range(0, len(pairs) - 1, size)]
        means = [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups[:-1]]
        pairs = [*(means if is_mean else [group[-1] for group in groups[:-1]]), pairs[-1]]
    return Line(line.name, [x for x, _ in pairs], [y for _, y in pairs], line.style), size


def _axis(low: float, high: float, bottom: float, is_logarithmic: bool) -> Axis:
    if is_logarithmic:
        margin = max((high / low) ** 0.05, 1.02)
        return Axis(low / margin, high * margin, bottom, TOP, True)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1
    return Axis(0 if 0 <= low < margin else low - margin, high + margin, bottom, TOP)


def _grid(across: Axis, up: Axis) -> list[str]:
    parts = []
    for value in up.ticks():
        y = up.place(value)
        parts.append(_rule("rule", across, y))
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 4:.1f}">{value:.4g}</text>')
    for value in across.ticks():
        x = across.place(value)
        where = "end" if x > across.end - 20 else "middle"
        parts.append(f'<text class="tick {where}" x="{x}" y="{up.start + 19}">{_steps(value)}</text>')
    return [*parts, _rule("axis", across, up.start)]


def _rule(style: str, across: Axis, y: float) -> str:
    return f'<line class="{style}" x1="{across.start}" x2="{across.end}" y1="{y}" y2="{y}"/>'


def _steps(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _drawn(style: str, places: Sequence[tuple[float, float]]) -> str:
    joined = " ".join(f"{x:g},{y:g}" for x, y in places)
    dots = (
        "".join(f'<circle class="{style}" cx="{x:g}" cy="{y:g}" r="2.6"/>' for x, y in places) if len(places) <= MAX_MARKED else ""
    )
    return f'<polyline class="{style}" points="{joined}"/>{dots}'


def _data(line: Line, places: Sequence[tuple[float, float]]) -> list[list[object]]:
    return [[x, y, round(step, 3), number(value)] for (x, y), step, value in zip(places, line.steps, line.values, strict=True)]


def _legend(lines: Sequence[Line], levels: Sequence[tuple[str, float]]) -> str:
    shown = [(line.style, line.name, line.values[-1]) for line in lines] + [("level", name, value) for name, value in levels]
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 18 6" aria-hidden="true"><line class="{style}" x1="0" x2="18" y1="3" y2="3"/></svg>'
        f"{text(name)} <b>{number(value)}</b></li>"
        for style, name, value in shown
    )
    return f'<ul class="legend">{items}</ul>'
