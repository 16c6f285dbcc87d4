"""The page of a sweep."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from alphabar.evaluation.receipt import FILE_NAME
from alphabar.reports.charts import render_curves
from alphabar.reports.html import Section, format_number, render, render_page
from alphabar.reports.images import embed_image, thumbnail
from alphabar.reports.receipts import FoundReceipt, find_receipt, receipt_complaints, render_receipts, unique_receipts
from alphabar.reports.run_page import load_frames, read_text
from alphabar.runs.metrics_csv import read_metrics
from alphabar.runs.sweep import COSTS, METRICS, PICTURE, TABLE, as_number, comparable_part

RESULT_COLUMNS = (
    "job",
    "state",
    "error",
    "loss",
    *METRICS,
    *(f"{metric}_name" for metric in METRICS),
    *COSTS,
    "images_per_second",
    "seconds",
    "folder",
)  # the columns that every sweep has beside its overrides
SHOWN_COLUMNS = ("state", *METRICS, "loss", *COSTS, "images_per_second", "seconds", "fid_name", "bpd_name", "error")
SAME_IMAGES = ("data.batch_size", "data.num_workers", "data.resident", "data.max_resident_mb")  # these do not change the data
TITLES = {**METRICS, **COSTS, "fid_name": "FID is", "bpd_name": "bits are", "images_per_second": "images/s"}
MAX_CELL = 60  # characters of an error in the table


class JobRow(NamedTuple):
    """A row of results.csv: its cells by column, the job's folder if that is found, and its anchor and title on the page."""

    cells: dict[str, str]
    folder: Path | None
    anchor: str
    title: str

    @property
    def num(self) -> str:
        return self.cells.get("job") or "?"

    @property
    def state(self) -> str:
        return self.cells.get("state", "")

    @property
    def error(self) -> str:
        return self.cells.get("error", "")

    @property
    def fid(self) -> float | None:
        return as_number(self.cells.get("fid", ""))

    @property
    def fid_name(self) -> str:
        return self.cells.get("fid_name", "")

    def formatted(self, column: str) -> str:
        """Returns the cell of a column, with numbers rounded and long texts cut off."""
        content = self.cells.get(column, "")
        value = as_number(content)
        if value is not None and column in ("images_per_second", "seconds"):
            return f"{value:,.0f}"
        if value is not None and column in ("loss", "fid"):
            return format_number(value)
        return content if len(content) <= MAX_CELL else content[: MAX_CELL - 3] + "..."


class Comparability(NamedTuple):
    """What a reader must know of the FIDs in the table: a warning with what differs, a note, or the one name of all."""

    warning: str = ""
    differences: Sequence[str] = ()
    note: str = ""
    name: str = ""


def render_sweep(folder: Path, receipts: Sequence[FoundReceipt]) -> Markup:
    """Returns the page of a sweep. receipts: those to show beside those of the jobs."""
    table, problem = read_table(folder)
    swept = swept_keys(table)
    jobs = [JobRow(cells, job_folder(folder, cells), f"job-{index}", job_title(cells, swept)) for index, cells in enumerate(table)]
    own = [find_receipt(job.folder) for job in jobs if job.folder is not None and (job.folder / FILE_NAME).is_file()]
    shown_receipts = unique_receipts([*own, *receipts])
    name = folder.resolve().name
    sections = [
        Section("results", "Results", render_results(jobs, swept, problem)),
        Section("pareto", "Pareto", render_picture(folder / "pareto.png", PARETO_ALT)),
        Section("samples", "Samples", render_thumbnails(jobs)),
        Section("picture", "Picture", render_picture(folder / PICTURE, PICTURE_ALT, "picture")),
        Section("evaluations", "Evaluations", render_receipts(shown_receipts)),
        Section("jobs", "Jobs", Markup("\n").join(render_job(job) for job in jobs)),
    ]
    return render_page(name, render_header(name, jobs, swept, shown_receipts), sections)


PARETO_ALT = "FID over network evaluations and over seconds, with the settings that none beats in both"
PICTURE_ALT = "the figure of merit over what was swept, and samples of every job"


def read_table(folder: Path) -> tuple[list[dict[str, str]], str]:
    """Returns the rows of results.csv, and what is wrong with the file."""
    try:
        content = (folder / TABLE).read_text(encoding="utf-8")
        rows = [
            {str(key): str(cell or "") for key, cell in row.items()} for row in csv.DictReader(io.StringIO(content, newline=""))
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], f"{TABLE} cannot be read: {type(error).__name__}"
    return rows, "" if rows else f"{TABLE} has no jobs"


def job_folder(sweep: Path, cells: dict[str, str]) -> Path | None:
    """Returns the job's folder inside that of the sweep, wherever that has been moved to; None if it is not there."""
    parts = [part for part in Path(cells.get("folder", "")).parts if part not in ("..", "/")]
    for start in range(len(parts)):
        found = sweep.joinpath(*parts[start:])
        if found.is_dir() and found.resolve().is_relative_to(sweep.resolve()):
            return found
    return None


def swept_keys(table: Sequence[dict[str, str]]) -> list[str]:
    """Returns the overrides that differ between jobs, or all of them if none do."""
    names = [key for key in (table[0] if table else ()) if key not in RESULT_COLUMNS and key != "None"]
    return [name for name in names if len({cells.get(name) for cells in table}) > 1] or names


def job_title(cells: dict[str, str], swept: Sequence[str]) -> str:
    """Returns the job's number with its own values of what was swept."""
    values = " ".join(f"{key}={cells[key]}" for key in swept if cells.get(key))
    return f"job {cells.get('job', '?')}" + (f": {values}" if values else "")


def render_header(name: str, jobs: Sequence[JobRow], swept: Sequence[str], receipts: Sequence[FoundReceipt]) -> Markup:
    """Returns the name, what was swept, how it went, and the best job."""
    states = [job.state for job in jobs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state)
    return render(
        "sweep_header",
        name=name,
        lead=f"{len(jobs)} jobs ({counts}) over {', '.join(swept)}" if jobs else "no jobs",
        best=best_job(jobs, swept),
        failures=[f"{job.title}: {job.error or 'no error was left'}" for job in jobs if job.state == "failed"],
        warnings=receipt_complaints(receipts),
    )


def best_job(jobs: Sequence[JobRow], swept: Sequence[str]) -> JobRow | None:
    """Returns the job with the lowest FID, or None where fewer than two FIDs were measured alike."""
    measured = [(job.fid, job) for job in jobs if job.fid is not None]
    if len(measured) < 2 or swept_real_images(jobs, swept) or len({comparable_part(job.fid_name) for _, job in measured}) > 1:
        return None
    return min(measured, key=lambda pair: pair[0])[1]


def comparability(jobs: Sequence[JobRow], swept: Sequence[str]) -> Comparability:
    """Returns whether the FIDs in the table can be compared."""
    names = sorted({job.fid_name for job in jobs} - {""})
    real = swept_real_images(jobs, swept) if names else []
    if real:
        return Comparability("Not measured alike, so not to be compared: FID is against other real images where these differ", real)
    if len({comparable_part(name) for name in names}) > 1:
        return Comparability("Not measured alike, so not to be compared: number of images or features differ", names)
    if len(names) > 1:
        return Comparability(note=f"Measured alike but for weights or sampler: {', '.join(names)}.")
    return Comparability(name=names[0] if names else "")


def swept_real_images(jobs: Sequence[JobRow], swept: Sequence[str]) -> list[str]:
    """Returns the swept keys that change the real images, which the names of figures do not tell."""
    changed = [key for key in swept if len({job.cells.get(key) for job in jobs}) > 1]
    return [key for key in changed if key.split(".")[0] == "data" and key not in SAME_IMAGES]


def render_results(jobs: Sequence[JobRow], swept: Sequence[str], problem: str) -> Markup:
    """Returns results.csv as a table with rounded numbers, after what must be known of its figures."""
    columns = [column for column in SHOWN_COLUMNS if any(job.cells.get(column) for job in jobs)]
    return render(
        "sweep_results",
        table_problem=problem,
        comparability=comparability(jobs, swept),
        jobs=jobs,
        swept=list(swept),
        columns=columns,
        titles=[TITLES.get(column, column) for column in columns],
    )


def render_picture(path: Path, alt: str, style: str = "") -> Markup:
    """Returns a picture that the sweep has left, or nothing if there is none."""
    return render("sweep_picture", picture=embed_image(path), alt=alt, style=style)


def render_thumbnails(jobs: Sequence[JobRow]) -> Markup:
    """Returns the newest samples of each job, in the order of the table."""
    with_samples = [(job, job.folder) for job in jobs if job.folder is not None and (job.folder / "samples").is_dir()]
    return render("sweep_samples", thumbnails=[(job, thumbnail(folder)) for job, folder in with_samples])


def render_job(job: JobRow) -> Markup:
    """Returns a job's curves, newest grid, error and configuration, folded up."""
    if job.folder is None:
        empty = "its folder is not in that of the sweep"
        return render("sweep_job", job=job, empty=empty, curves="", frames=[], problems=[], error="", config="")
    frames, problems = load_frames(sorted((job.folder / "samples").glob("*.png"))[-1:])
    return render(
        "sweep_job",
        job=job,
        empty="its receipt is above" if (job.folder / FILE_NAME).is_file() else "there is nothing in its folder",
        curves=render_curves(read_metrics(job.folder / "metrics.csv"), is_brief=True),
        frames=frames,
        problems=problems,
        error=read_text(job.folder / "error.txt"),
        config=read_text(job.folder / "config.yaml"),
    )
