"""The table of what was measured: as text, as JSON and as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from measuring.timing import Measured

from alphabar.files.atomic import write_text
from alphabar.plotting.figure import figure_file
from alphabar.runs.text_table import format_table

Row = dict[str, Any]
HEAD = ("", "precision", "Mparam", "GFLOP/img", "ms", "min to max", "images/s", "GFLOP/s", "MFU", "speed", "min to max")


def rows_of(measured: Sequence[Measured], peaks: Sequence[Measured]) -> list[Row]:
    """Returns a row for each contestant; the first one is the reference of the speeds.

    peaks: the kernels that took turns with them. The share of the peak (MFU) is taken in each round.
    """
    return [row_of(each, measured[0], [peak for peak in peaks if same_precision(peak, each)]) for each in measured]


def same_precision(peak: Measured, measured: Measured) -> bool:
    """Returns whether a kernel computes in the precision of a contestant."""
    return peak.contestant.precision == measured.contestant.precision


def row_of(measured: Measured, reference: Measured, peaks: Sequence[Measured]) -> Row:
    """Returns the row of one contestant."""
    what, medians = measured.contestant, measured.medians
    row: Row = {
        "label": what.label,
        "precision": what.precision,
        "parameters": what.parameters,
        "gflop_per_image": what.gflop,
        "seconds": spread(medians),
        "mean_seconds": spread(measured.means),
        "images_per_second": spread([what.images / each for each in medians]),
        "speed": spread(measured.ratios(reference)),
        "remark": what.remark,
    }
    if what.gflop is not None:
        rates = [what.gflop * what.images / each for each in medians]
        row["gflop_per_second"] = spread(rates)
        if peaks:
            highest = [max(values) for values in zip(*(map(rate_of(peak), peak.medians) for peak in peaks), strict=True)]
            row["mfu"] = spread([rate / peak for rate, peak in zip(rates, highest, strict=True)])
    return row


def rate_of(peak: Measured) -> Any:
    """Returns the function that makes GFLOP/s of the seconds of a kernel."""
    gflop = peak.contestant.gflop or 0.0
    return lambda seconds: gflop / seconds


def peak_rows(peaks: Sequence[Measured]) -> list[Row]:
    """Returns the rate of each kernel."""
    return [
        {
            "label": peak.contestant.label,
            "precision": peak.contestant.precision,
            "gflop_per_second": spread(list(map(rate_of(peak), peak.medians))),
        }
        for peak in peaks
    ]


def spread(values: Sequence[float]) -> list[float]:
    """Returns median, lowest and highest value."""
    return [median(values), min(values), max(values)]


def work_as_text(title: str, work: dict[str, Any]) -> str:
    """Returns the table of one piece of work, its remarks, and the rates of the machine."""
    lines = [f"{title}: {work['title']}", format_table([HEAD, *(map(cells, work["rows"]))])]
    lines += dict.fromkeys(f"  {row['label']}: {row['remark']}" for row in work["rows"] if row["remark"])
    lines += [f"  {missing}" for missing in work["missing"]]
    lines += [f"  {each['label']}, {each['precision']}: {each['gflop_per_second'][0]:,.0f} GFLOP/s" for each in work["peaks"]]
    return "\n".join([*lines, *work["notes"], ""])


def cells(row: Row) -> list[str]:
    """Returns the cells of a row, as HEAD names them."""
    seconds, speed = row["seconds"], row["speed"]
    return [
        row["label"],
        row["precision"],
        "" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f}",
        "" if row["gflop_per_image"] is None else f"{row['gflop_per_image']:.2f}",
        f"{1e3 * seconds[0]:,.2f}",
        f"{1e3 * seconds[1]:,.2f} to {1e3 * seconds[2]:,.2f}",
        f"{row['images_per_second'][0]:,.4g}",
        f"{row['gflop_per_second'][0]:,.1f}" if "gflop_per_second" in row else "",
        f"{row['mfu'][0]:.0%}" if "mfu" in row else "",
        f"{speed[0]:.2f}",
        f"{speed[1]:.2f} to {speed[2]:.2f}",
    ]


def write_json(path: Path, machine: dict[str, Any], works: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Adds works to the file, where those of another machine are not kept, and returns all that are in it now."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    kept = before.get("works", {}) if before.get("machine") == machine else {}
    write_text(path, json.dumps({"machine": machine, "works": kept | works}, indent=1) + "\n")
    return kept | works


def draw(path: Path, works: dict[str, dict[str, Any]]) -> None:
    """Draws the speed of each contestant over that of the reference, with its range, a panel for each piece of work."""
    heights = [1 + len(work["rows"]) for work in works.values()]
    with figure_file(path, 10, 0.4 * sum(heights) + 0.6) as figure:
        panels = figure.subplots(len(works), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, work in zip(panels, works.values(), strict=True):
            rows = work["rows"][::-1]
            speeds = [row["speed"] for row in rows]
            errors = [[middle - low for middle, low, _ in speeds], [high - middle for middle, _, high in speeds]]
            colors = ["tab:blue" if row["label"].startswith("alphabar") else "tab:gray" for row in rows]
            axes.barh(range(len(rows)), [middle for middle, _, _ in speeds], xerr=errors, color=colors, height=0.6)
            axes.set_yticks(range(len(rows)), [f"{row['label']}, {row['precision']}" for row in rows])
            axes.set_title(work["title"], loc="left", fontsize="medium")
            axes.axvline(1, color="black", linewidth=0.8)
            axes.margins(x=0.1)  # room for the numbers
            for place, (middle, _, high) in enumerate(speeds):
                axes.text(max(middle, high), place, f" {middle:.2f}", va="center", fontsize="small")
        panels[-1].set_xlabel("images per second, over those of the first row of each panel")
