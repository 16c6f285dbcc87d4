"""The page of a sweep."""

import csv
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from alphabar.evaluation.receipt import has_figures
from alphabar.evaluation.table import format_number
from alphabar.files.paths import display_path
from alphabar.progress import format_duration
from alphabar.reports.charts import render_overlay, render_sweep_chart
from alphabar.reports.config_summary import parse_config
from alphabar.reports.html import Section, render, render_page
from alphabar.reports.images import embed_image, thumbnail
from alphabar.reports.receipts import FoundReceipt, find_receipt, receipt_warnings, render_receipts, unique_receipts
from alphabar.reports.run_page import Tile, read_text
from alphabar.reports.run_record import RunRecord, read_run_record, record_rows
from alphabar.reports.sweep_config import common_config
from alphabar.reports.verdict import run_verdict
from alphabar.runs.floor import ratio_words
from alphabar.runs.metrics_csv import RunMetrics, read_metrics
from alphabar.runs.provenance.receipt import FILE_NAME
from alphabar.runs.sweeps.sweep import METRICS, PARETO_PICTURE, TABLE, Job, Sweep, comparable_part, read_sweep

SAME_IMAGES = ("data.batch_size", "data.num_workers", "data.resident", "data.max_resident_mb")  # these do not change the data
PARETO_ALT = "FID over network evaluations and over seconds, with the settings that none beats in both"
CHANGE_LOSS = ("method", "objective", "parameterization", "schedule", "weighting", "times", "data", "codec", "experiment")
MAX_ERROR = 60  # characters of an error in the table


class JobEntry(NamedTuple):
    """A job with its anchor and title on the page, and its folder if that is found inside the sweep's."""

    job: Job
    anchor: str
    title: str
    folder: Path | None

    @property
    def fid(self) -> float | None:
        return self.job.figure if self.job.metric == "fid" else None


class Comparability(NamedTuple):
    """Whether the FIDs in the table can be compared: a warning with the differences, a note, or the one name that all share."""

    warning: str = ""
    differences: Sequence[str] = ()
    note: str = ""
    name: str = ""


def render_sweep(folder: Path, receipts: Sequence[FoundReceipt]) -> Markup:
    """Returns the page of a sweep. receipts: those to show beside those of the jobs."""
    sweep, problem = load_sweep(folder)
    entries = [
        JobEntry(job, f"job-{index}", job_title(sweep, job), job_folder(folder, job)) for index, job in enumerate(sweep.ranked())
    ]
    own = [find_receipt(each.folder) for each in entries if each.folder is not None and is_evaluated(each.folder)]
    shown_receipts = unique_receipts([*own, *receipts])
    name = folder.resolve().name
    sections = [
        Section("results", "Results", render_results(sweep, entries, problem) + render_figures(sweep)),
        Section("pareto", "Pareto", render_picture(folder / PARETO_PICTURE, PARETO_ALT)),
        Section("samples", "Samples", render_grids(entries, best_entry(sweep, entries))),
        Section("curves", "Curves", render_overlay(figures_of_jobs(entries), loss_caption(sweep))),
        Section("evaluations", "Evaluations", render_receipts(shown_receipts)),
        Section("config", "Configuration", render_config(entries)),
        Section("jobs", "Jobs", Markup("\n").join(map(render_job, entries))),
    ]
    return render_page(name, render_header(name, sweep, entries, shown_receipts), sections)


def figures_of_jobs(entries: Sequence[JobEntry]) -> dict[str, RunMetrics]:
    """Returns the figures over training of each job that has a folder, by its title."""
    return {each.title: read_metrics(each.folder / "metrics.csv") for each in entries if each.folder is not None}


def loss_caption(sweep: Sweep) -> str:
    """Returns a warning where what was swept changes what the loss is."""
    changes = any(key.split(".")[0] in CHANGE_LOSS and key not in SAME_IMAGES for key in sweep.swept_keys())
    return "losses of different objectives: not to be compared" if changes else ""


def load_sweep(folder: Path) -> tuple[Sweep, str]:
    """Returns the sweep in a folder and the problem of its table, or ""; the sweep has no jobs if the table cannot be read."""
    try:
        sweep = read_sweep(folder)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        return Sweep(folder), f"{TABLE} cannot be read: {type(error).__name__}"
    return sweep, "" if sweep.jobs else f"{TABLE} has no jobs"


def job_folder(sweep: Path, job: Job) -> Path | None:
    """Returns the job's folder inside that of the sweep, wherever that has been moved to; None if it is not there."""
    parts = [part for part in job.folder.parts if part not in ("..", "/")]
    for start in range(len(parts)):
        found = sweep.joinpath(*parts[start:])
        if found.is_dir() and found.resolve().is_relative_to(sweep.resolve()):
            return found
    return None


def job_title(sweep: Sweep, job: Job) -> str:
    """Returns the job's number with its values of the swept keys."""
    values = sweep.label(job.overrides)
    return f"job {job.num}" + (f": {values}" if values else "")


def render_header(name: str, sweep: Sweep, entries: Sequence[JobEntry], receipts: Sequence[FoundReceipt]) -> Markup:
    """Returns the header: the name of the sweep, the swept keys, the states of the jobs, and the best job."""
    states = [each.job.state for each in entries]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state)
    return render(
        "sweep_header",
        name=name,
        lead=f"{len(entries)} jobs ({counts}) over {', '.join(sweep.swept_keys())}" if entries else "no jobs",
        verdict=sweep_verdict(best_entry(sweep, entries), entries),
        best=best_entry(sweep, entries),
        tiles=sweep_tiles(entries),
        failures=[f"{each.title}: {each.job.error or 'no error was left'}" for each in entries if each.job.state == "failed"],
        warnings=receipt_warnings(receipts),
    )


def sweep_verdict(best: JobEntry | None, entries: Sequence[JobEntry]) -> str:
    """Returns a sentence on the best job against its floor, and on how far the jobs lie apart; "" where no job is the best."""
    if best is None or best.fid is None:
        return ""
    highest = max(each.fid for each in entries if each.fid is not None)
    against = ", ".join(filter(None, (format_number(best.fid), ratio_words(best.job.times_floor))))
    return f"The lowest FID is {against}, that of {best.title}; that of the other jobs goes up to {format_number(highest)}."


def sweep_tiles(entries: Sequence[JobEntry]) -> list[Tile]:
    """Returns the highest FID and the time of all jobs."""
    figures = [each.fid for each in entries if each.fid is not None]
    seconds = sum(each.job.seconds for each in entries)
    found = [Tile("highest FID", format_number(max(figures)))] if figures else []
    return [*found, Tile("time in all", format_duration(seconds))] if seconds else found


def best_entry(sweep: Sweep, entries: Sequence[JobEntry]) -> JobEntry | None:
    """Returns the job with the lowest FID, or None where fewer than two FIDs were measured alike."""
    measured = [(each.fid, each) for each in entries if each.fid is not None]
    if len(measured) < 2 or swept_real_images(sweep) or len({comparable_part(each.job.figure_name) for _, each in measured}) > 1:
        return None
    return min(measured, key=lambda pair: pair[0])[1]


def comparability(sweep: Sweep) -> Comparability:
    """Returns whether the FIDs in the table can be compared."""
    names = sorted({job.figure_name for job in sweep.jobs if job.metric == "fid"} - {""})
    real = swept_real_images(sweep) if names else []
    if real:
        return Comparability("Not measured alike, so not to be compared: FID is against other real images where these differ", real)
    if len({comparable_part(name) for name in names}) > 1:
        return Comparability("Not measured alike, so not to be compared: number of images or features differ", names)
    if len(names) > 1:
        return Comparability(note=f"Measured alike but for weights or sampler: {', '.join(names)}.")
    return Comparability(name=names[0] if names else "")


def swept_real_images(sweep: Sweep) -> list[str]:
    """Returns the swept keys that change the real images, which the names of figures do not tell."""
    changed = [key for key in sweep.swept_keys() if len({job.overrides.get(key) for job in sweep.jobs}) > 1]
    return [key for key in changed if key.split(".")[0] == "data" and key not in SAME_IMAGES]


def render_results(sweep: Sweep, entries: Sequence[JobEntry], problem: str) -> Markup:
    """Returns the table of all jobs, preceded by a statement on whether its figures can be compared."""
    columns = sweep.result_columns()
    return render(
        "sweep_results",
        table_problem=problem,
        comparability=comparability(sweep),
        swept=sweep.swept_keys(),
        titles=[column.title for column in columns],
        name_title="bits are" if sweep.metric == "bpd" else f"{METRICS[sweep.metric]} is",
        has_names=bool(sweep.figure_names()),
        has_errors=any(each.job.error for each in entries),
        rows=[
            (each, cells, textwrap.shorten(each.job.error, MAX_ERROR, placeholder="..."))
            for each, *cells in zip(entries, *(column.cells() for column in columns), strict=True)
        ],
    )


def render_picture(path: Path, alt: str) -> Markup:
    """Returns a picture that the sweep has left, or nothing if there is none."""
    return render("sweep_picture", picture=embed_image(path), alt=alt)


def render_figures(sweep: Sweep) -> Markup:
    """Returns the chart of the figures over what was swept; nothing for figures that are not to be compared."""
    return Markup("") if comparability(sweep).warning else render_sweep_chart(sweep)


def render_grids(entries: Sequence[JobEntry], best: JobEntry | None) -> Markup:
    """Returns the newest grids of the first and the last finished job of the table, large, and a corner of those of the others.

    best: the job that is called the best one, whose opposite is the worst; None where the jobs cannot be compared.
    """
    with_samples = [(each, newest) for each in entries if each.folder is not None and (newest := newest_grid(each.folder))]
    finished = [pair for pair in with_samples if pair[0].job.state == "finished"]
    names = ("first in the table", "last in the table") if best is None else ("best", "worst")
    ends = dict(zip(names, (finished[0], finished[-1]), strict=True)) if len(finished) > 1 else {}
    large = [(title, entry, embed_image(path)) for title, (entry, path) in ends.items()]
    others = [entry for entry, _ in with_samples if all(entry is not shown for _, shown, _ in large)]
    return render("sweep_samples", large=large, thumbnails=[(each, thumbnail(each.folder)) for each in others if each.folder])


def newest_grid(folder: Path) -> Path | None:
    """Returns the newest grid of samples in the folder of a job, or None."""
    return max((folder / "samples").glob("*.png"), default=None)


def render_config(entries: Sequence[JobEntry]) -> Markup:
    """Returns what the configurations of the jobs have in common, once, and what differs between them."""
    found = [(f"job {each.job.num}", parse_config(read_text(each.folder / "config.yaml"))) for each in entries if each.folder]
    return render("sweep_config", common=common_config({name: config for name, config in found if config}))


def is_evaluated(folder: Path) -> bool:
    """Returns whether there is a receipt of evaluate.py in the folder of a job."""
    return (folder / FILE_NAME).is_file() and has_figures(folder)


def render_job(entry: JobEntry) -> Markup:
    """Returns where a job's own files are, what its record says, and its error, folded up."""
    folder = entry.folder
    if folder is None:
        return render("sweep_job", entry=entry, rows=[], error="")
    metrics, config = read_metrics(folder / "metrics.csv"), parse_config(read_text(folder / "config.yaml")) or {}
    record = RunRecord() if is_evaluated(folder) else read_run_record(folder)
    verdict = " ".join(run_verdict(metrics, config, record))
    rows = [("verdict", verdict), ("folder", display_path(folder)), *record_rows(record)]
    return render("sweep_job", entry=entry, rows=[row for row in rows if row[1]], error=read_text(folder / "error.txt"))
