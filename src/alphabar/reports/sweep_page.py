"""The page of a sweep."""

import csv
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from alphabar.evaluation.receipt import has_figures
from alphabar.reports.charts import render_curves
from alphabar.reports.html import Section, render, render_page
from alphabar.reports.images import embed_image, thumbnail
from alphabar.reports.receipts import FoundReceipt, find_receipt, receipt_warnings, render_receipts, unique_receipts
from alphabar.reports.run_page import load_frames, read_text
from alphabar.runs.metrics_csv import read_metrics
from alphabar.runs.receipt import FILE_NAME
from alphabar.runs.sweep import METRICS, PARETO_PICTURE, PICTURE, TABLE, Job, Sweep, comparable_part, read_sweep

SAME_IMAGES = ("data.batch_size", "data.num_workers", "data.resident", "data.max_resident_mb")  # these do not change the data
PARETO_ALT = "FID over network evaluations and over seconds, with the settings that none beats in both"
PICTURE_ALT = "the figure of merit over what was swept, and samples of every job"
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
        Section("results", "Results", render_results(sweep, entries, problem)),
        Section("pareto", "Pareto", render_picture(folder / PARETO_PICTURE, PARETO_ALT)),
        Section("samples", "Samples", render_thumbnails(entries)),
        Section("picture", "Picture", render_picture(folder / PICTURE, PICTURE_ALT, "picture")),
        Section("evaluations", "Evaluations", render_receipts(shown_receipts)),
        Section("jobs", "Jobs", Markup("\n").join(map(render_job, entries))),
    ]
    return render_page(name, render_header(name, sweep, entries, shown_receipts), sections)


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
        best=best_entry(sweep, entries),
        failures=[f"{each.title}: {each.job.error or 'no error was left'}" for each in entries if each.job.state == "failed"],
        warnings=receipt_warnings(receipts),
    )


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


def render_picture(path: Path, alt: str, style: str = "") -> Markup:
    """Returns a picture that the sweep has left, or nothing if there is none."""
    return render("sweep_picture", picture=embed_image(path), alt=alt, style=style)


def render_thumbnails(entries: Sequence[JobEntry]) -> Markup:
    """Returns the newest samples of each job, in the order of the table."""
    with_samples = [(each, each.folder) for each in entries if each.folder is not None and (each.folder / "samples").is_dir()]
    return render("sweep_samples", thumbnails=[(each, thumbnail(folder)) for each, folder in with_samples])


def is_evaluated(folder: Path) -> bool:
    """Returns whether there is a receipt of evaluate.py in the folder of a job."""
    return (folder / FILE_NAME).is_file() and has_figures(folder)


def render_job(entry: JobEntry) -> Markup:
    """Returns a job's curves, newest grid, error and configuration, folded up."""
    folder = entry.folder
    if folder is None:
        empty = "its folder is not in that of the sweep"
        return render("sweep_job", entry=entry, empty=empty, curves="", frames=[], problems=[], error="", config="")
    frames, problems = load_frames(sorted((folder / "samples").glob("*.png"))[-1:])
    return render(
        "sweep_job",
        entry=entry,
        empty="its receipt is above" if is_evaluated(folder) else "there is nothing in its folder",
        curves=render_curves(read_metrics(folder / "metrics.csv"), is_brief=True),
        frames=frames,
        problems=problems,
        error=read_text(folder / "error.txt"),
        config=read_text(folder / "config.yaml"),
    )
