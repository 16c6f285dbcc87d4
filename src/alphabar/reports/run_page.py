"""The page of a run."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from alphabar.evaluation.table import format_number
from alphabar.plotting.memorisation import PANEL
from alphabar.progress import format_duration
from alphabar.reports.charts import render_curves
from alphabar.reports.config_summary import class_name, method_name, parse_config, summarise_config
from alphabar.reports.health import health_rows, health_warnings
from alphabar.reports.html import Section, render, render_page
from alphabar.reports.images import EmbeddedImage, embed_image, evenly_spaced
from alphabar.reports.receipts import FoundReceipt, receipt_warnings, receipts_of_run, render_receipts, unique_receipts
from alphabar.reports.run_record import RunRecord, read_run_record, record_rows
from alphabar.reports.verdict import run_verdict
from alphabar.runs.floor import FloorPair
from alphabar.runs.metrics_csv import RunMetrics, read_metrics
from alphabar.runs.run_speed import run_speed

MAX_FRAMES = 40


class Tile(NamedTuple):
    """A large figure of the header. name: the full name of the figure; a tile with one is wide."""

    title: str
    value: str
    detail: str = ""
    name: str = ""


class Frame(NamedTuple):
    """A grid of samples; step: the optimizer step at which it was drawn, or else the name of its file."""

    step: str
    picture: EmbeddedImage


def render_run(folder: Path, receipts: Sequence[FoundReceipt]) -> Markup:
    """Returns the page of a run. receipts: those to show beside those that are found near the run."""
    shown_receipts = unique_receipts([*receipts, *receipts_of_run(folder)])
    metrics = read_metrics(folder / "metrics.csv")
    content, record = read_text(folder / "config.yaml"), read_run_record(folder)
    config = parse_config(content) or {}
    name = str(config.get("name") or folder.resolve().name)
    header = render(
        "run_header",
        name=name,
        subtitle=subtitle(config, record),
        verdict=run_verdict(metrics, config, record),
        tiles=tiles(metrics, record),
        warnings=[*health_warnings(metrics), *receipt_warnings(shown_receipts)],
    )
    rows = [*record_rows(record), *speed_rows(metrics, record)]
    sections = [
        Section("samples", "Samples", render_samples(folder)),
        Section("curves", "Curves", render_curves(metrics, embed_image(folder / "curves.png"))),
        Section("evaluations", "Evaluations", render_receipts(shown_receipts, folder)),
        Section("health", "Health", render("health", rows=health_rows(metrics), panel=embed_image(folder / PANEL))),
        Section("record", "Record", render("run_record", rows=rows, record_problem=record.problem)),
        Section("config", "Configuration", render("configuration", content=content, summary=summarise_config(config))),
    ]
    return render_page(name, header, sections)


def speed_rows(metrics: RunMetrics, record: RunRecord) -> list[tuple[str, str]]:
    """Returns the row of a run's speed, if it has figures of it; the share of evaluation stands in the record where that has it."""
    speed = run_speed(metrics.last)
    line = (speed if record.total("evaluation_seconds") is None else speed._replace(evaluating=None)).line()
    return [("throughput", line)] if line else []


def read_text(path: Path) -> str:
    """Returns the content of a text file; an empty text if there is none or it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def subtitle(config: Mapping[str, Any], record: RunRecord) -> str:
    """Returns the method (or else parameterization and schedule), the network and the data on one line.

    Network and data are told as the run did at its beginning, with numbers of parameters and images, if its record has that.
    """
    network, data = class_name(config.get("network")), config.get("data")
    method = method_name(config) or " / ".join(
        class_name(config.get(part)) for part in ("parameterization", "schedule") if part in config
    )
    data_name = str(data.get("name") or class_name(data)) if isinstance(data, Mapping) else ""
    told = [str(record.composition.get(part) or "") for part in ("network", "data")]
    return " · ".join(part for part in (method, told[0] or network, told[1] or data_name) if part)


def tiles(metrics: RunMetrics, record: RunRecord) -> list[Tile]:
    """Returns the few figures that a reader looks for first, as far as the run logged them."""
    found = []
    fid = metrics.latest_fid()
    if fid is not None:
        found.append(Tile("FID", format_number(metrics.last(fid) or 0.0), floor_detail(metrics.floor_pair(fid)), fid))
    loss, images, seconds = (metrics.last(f"train/{name}") for name in ("loss", "images", "seconds"))
    if loss is not None:
        found.append(Tile("final loss", format_number(loss)))
    if (step := metrics.last_step()) is not None:
        found.append(Tile("steps", f"{step:,}"))
    if images is not None:
        epochs = record.epochs(images)
        found.append(Tile("images seen", f"{images:,.0f}", "" if epochs is None else f"{epochs:.3g} epochs"))
    total, evaluating = record.total("seconds"), record.total("evaluation_seconds")
    rate = f"{images / seconds:,.0f} images/s in training" if images and seconds else ""
    if total:
        share = "" if evaluating is None else f"{evaluating / total:.0%} for samples and figures"
        found.append(Tile("time", format_duration(total), ", ".join(filter(None, (share, rate)))))
    elif seconds:  # a run without a record
        found.append(Tile("training time", format_duration(seconds), rate))
    return found


def floor_detail(pair: FloorPair | None) -> str:
    """Returns FID, or its mean over sets, as a multiple of its floor with the value of that; "" without a floor."""
    if pair is None:
        return ""
    sets = f"in sets of {pair.num:,}: {format_number(pair.value)}, " if pair.is_mean else ""
    return f"{sets}{pair.words or 'floor'} {format_number(pair.floor)} (held-out images)"


def render_samples(folder: Path) -> Markup:
    """Returns the grids over training with a slider, and the film of a few samples beside them."""
    files = sorted((folder / "samples").glob("*.png"))
    frames, problems = load_frames(evenly_spaced(files, MAX_FRAMES))
    description = f"{len(frames)} grids of samples, always from the same noise."
    if len(files) > MAX_FRAMES:
        description = f"{MAX_FRAMES} of {len(files)} grids, evenly chosen, at most {MAX_FRAMES}; always from the same noise."
    if any(frame.picture.is_reduced for frame in frames):
        description += " They are smaller here than in their files."
    film, strip = embed_image(folder / "film.gif"), embed_image(folder / "film.png")
    return render("samples", frames=frames, problems=problems, description=description, film=film, strip=strip)


def load_frames(files: Sequence[Path]) -> tuple[list[Frame], list[str]]:
    """Returns the grids in these files, and a line for each file that cannot be shown."""
    frames = [Frame(step_title(path), embed_image(path) or EmbeddedImage(problem=f"{path.name} is gone")) for path in files]
    return (
        [frame for frame in frames if not frame.picture.problem],
        [frame.picture.problem for frame in frames if frame.picture.problem],
    )


def step_title(path: Path) -> str:
    """Returns "1,800" for step_0001800.png, and the name of a file that is named otherwise."""
    digits = re.fullmatch(r"step_(\d+)", path.stem)
    return f"{int(digits[1]):,}" if digits else path.stem
