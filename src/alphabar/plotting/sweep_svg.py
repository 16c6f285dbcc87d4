"""The figure of merit of a sweep over what was swept, as SVG for a page."""

import io
from typing import TYPE_CHECKING, Any, NamedTuple

from alphabar.plotting.figure import STYLE
from alphabar.plotting.line_chart import AXIS, GRID, MAIN, PALETTE, SIZE, SOFT, svg_for_page
from alphabar.plotting.sweep import SweepLayout, plot_lines
from alphabar.runs.sweeps.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType


class SweepSvg(NamedTuple):
    """The inner part of an <svg>, its size, and (colour, name) of each line. title: what is drawn over what."""

    title: str
    content: str
    width: int
    height: int
    lines: list[tuple[str, str]]


def sweep_svg(sweep: Sweep) -> SweepSvg | None:
    """Returns the chart of a sweep in the colours of the page, or None if fewer than two jobs have anything to draw."""
    layout = SweepLayout(sweep)
    if len(layout.heights()) < 2:
        return None
    from matplotlib import rc_context
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.rcsetup import cycler

    colours: dict[RcKeyType, Any] = {
        "axes.prop_cycle": cycler(color=[*PALETTE, MAIN, SOFT]),
        "axes.edgecolor": AXIS,
        "grid.color": GRID,
        "text.color": SOFT,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
    }
    with rc_context(STYLE | colours):
        figure, file = Figure(figsize=(SIZE[0] / 72, SIZE[1] / 72), dpi=72, layout="constrained"), io.StringIO()
        axes = figure.subplots()
        plot_lines(axes, layout)
        handles, names = axes.get_legend_handles_labels()
        if (legend := axes.get_legend()) is not None:
            legend.remove()
        axes.set(xlabel="", ylabel="")
        for artist in figure.findobj():
            artist.set_clip_on(False)  # a page that holds several charts has no ids of clip paths
        drawn = [handle[0] if isinstance(handle, tuple) else handle for handle in handles]  # of error bars their middle
        lines = [(to_hex(line.get_color()), name) for line, name in zip(drawn, names, strict=True) if isinstance(line, Line2D)]
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    what = layout.metric_title if layout.has_figure else "final loss"
    return SweepSvg(f"{what} over {layout.x_key}", svg_for_page(file.getvalue()), *SIZE, lines)
