"""The page of a sweep."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alphabar.evaluation.receipt import FILE_NAME
from alphabar.reports import receipts
from alphabar.reports.embed import picture, thumbnail
from alphabar.reports.markup import alert, code, details, missing, note, number, table, text
from alphabar.reports.metrics import charts, load
from alphabar.reports.page import Section, page
from alphabar.reports.receipts import Found
from alphabar.reports.run_page import frames, read_text
from alphabar.reports.sweep import as_number
from alphabar.runs.sweep import COSTS, KINDS, PICTURE, TABLE, core

ENDING = (
    "job",
    "state",
    "error",
    "loss",
    *KINDS,
    *(f"{kind}_name" for kind in KINDS),
    *COSTS,
    "images_per_second",
    "seconds",
    "folder",
)  # columns that every sweep has
SHOWN = ("state", *KINDS, "loss", *COSTS, "images_per_second", "seconds", "fid_name", "bpd_name", "error")
SAME_IMAGES = ("data.batch_size", "data.num_workers", "data.resident", "data.max_resident_mb")  # however these are
TITLES = {**KINDS, **COSTS, "fid_name": "FID is", "bpd_name": "bits are", "images_per_second": "images/s"}
LONG = 60  # characters of an error in the table


class Row(NamedTuple):
    """A job: its cells by column, its folder if that is found, and its name on the page."""

    cells: dict[str, str]
    folder: Path | None
    anchor: str

    def title(self, keys: Sequence[str]) -> str:
        swept = " ".join(f"{key}={self.cells[key]}" for key in keys if self.cells.get(key))
        return f"job {self.cells.get('job', '?')}" + (f": {swept}" if swept else "")


def make(folder: Path, given: Sequence[Found]) -> str:
    """The page. given: receipts beside those of the jobs."""
    rows, problem = load_rows(folder)
    keys = swept_keys(rows)
    own = [receipts.load(row.folder) for row in rows if row.folder is not None and (row.folder / FILE_NAME).is_file()]
    found = list({each.path.resolve(): each for each in (*own, *given)}.values())
    name = folder.resolve().name
    pareto = picture(
        folder / "pareto.png", "FID over network evaluations and over seconds, with the settings that none beats in both"
    )
    drawn = picture(folder / PICTURE, "the figure of merit over what was swept, and samples of every job")
    results = (missing(problem) if problem else "") + comparability(rows, keys) + (results_table(rows, keys) if rows else "")
    sections = [
        Section("results", "Results", results),
        Section("pareto", "Pareto", f'<div class="card">{pareto}</div>' if pareto else ""),
        Section("samples", "Samples", thumbnails(rows, keys)),
        Section("picture", "Picture", f'<div class="card picture">{drawn}</div>' if drawn else ""),
        Section("evaluations", "Evaluations", receipts.section(found)),
        Section("jobs", "Jobs", "".join(summary(row, keys) for row in rows)),
    ]
    return page(name, header(name, rows, keys, found), sections)


def load_rows(folder: Path) -> tuple[list[Row], str]:
    """The rows of the table as they stand there, and what is wrong with it."""
    try:
        content = (folder / TABLE).read_text(encoding="utf-8")
        found = [
            {str(key): str(cell or "") for key, cell in row.items()} for row in csv.DictReader(io.StringIO(content, newline=""))
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], f"{TABLE} cannot be read: {type(error).__name__}"
    rows = [Row(row, folder_of(folder, row), f"job-{index}") for index, row in enumerate(found)]
    return rows, "" if rows else f"{TABLE} has no jobs"


def folder_of(sweep: Path, cells: dict[str, str]) -> Path | None:
    """The job's folder inside that of the sweep, wherever that has been moved to."""
    parts = [part for part in Path(cells.get("folder", "")).parts if part not in ("..", "/")]
    for start in range(len(parts)):
        found = sweep.joinpath(*parts[start:])
        if found.is_dir() and found.resolve().is_relative_to(sweep.resolve()):
            return found
    return None


def swept_keys(rows: Sequence[Row]) -> list[str]:
    """The overrides that differ between jobs, or all of them if none do."""
    names = [key for key in (rows[0].cells if rows else ()) if key not in ENDING and key != "None"]
    return [name for name in names if len({row.cells.get(name) for row in rows}) > 1] or names


def header(name: str, rows: Sequence[Row], keys: Sequence[str], found: Sequence[Found]) -> str:
    """Name, what was swept, how it went."""
    states = [row.cells.get("state", "") for row in rows]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state)
    failed = [
        f"{row.title(keys)}: {row.cells.get('error') or 'no error was left'}" for row in rows if row.cells.get("state") == "failed"
    ]
    lead = f"{len(rows)} jobs ({counted}) over {', '.join(keys)}" if rows else "no jobs"
    warnings = alert("Jobs that failed", failed) + alert("To look at", receipts.complaints(found))
    return f'<p class="kicker">Sweep</p><h1>{text(name)}</h1><p class="lead">{text(lead)}</p>{best(rows, keys)}{warnings}'


def best(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """The first row, if its FID is the lowest of several that were measured alike."""
    measured = [row for row in rows if as_number(row.cells.get("fid", "")) is not None]
    if len(measured) < 2 or real_images(rows, keys) or len({core(row.cells.get("fid_name", "")) for row in measured}) > 1:
        return ""
    first = min(measured, key=lambda row: float(row.cells["fid"]))
    value = number(float(first.cells["fid"]))
    more = f'<a href="#{first.anchor}">{text(first.title(keys))}</a><code>{text(first.cells["fid_name"])}</code>'
    return f'<dl class="facts"><div class="tile wide"><dt>lowest FID</dt><dd><b>{value}</b><span>{more}</span></dd></div></dl>'


def comparability(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """What to know of the FIDs in the table."""
    names = sorted({row.cells.get("fid_name", "") for row in rows} - {""})
    real = real_images(rows, keys) if names else []
    if real:
        return alert("Not measured alike, so not to be compared: FID is against other real images where these differ", real)
    if len({core(name) for name in names}) > 1:
        return alert("Not measured alike, so not to be compared: number of images or features differ", names)
    if len(names) > 1:
        return note(f"Measured alike but for weights or sampler: {', '.join(names)}.")
    return f'<p class="quiet">FID is <code>{text(names[0])}</code>.</p>' if names else ""


def real_images(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """What was swept of the real images, which the names of figures do not tell."""
    swept = [key for key in keys if len({row.cells.get(key) for row in rows}) > 1]
    return [key for key in swept if key.split(".")[0] == "data" and key not in SAME_IMAGES]


def results_table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """As in results.csv, but rounded."""
    names = list(keys)
    ending = [column for column in SHOWN if any(row.cells.get(column) for row in rows)]
    head = ["job", *(text(name) for name in names), *(text(TITLES.get(column, column)) for column in ending)]
    lines = []
    for row in rows:
        link = f'<a href="#{row.anchor}">{text(row.cells.get("job", "?"))}</a>'
        lines.append([link, *(text(row.cells.get(name, "")) for name in names), *(cell(row, column) for column in ending)])
    return table(head, lines, "sortable")


def cell(row: Row, column: str) -> str:
    """A cell as HTML."""
    content = row.cells.get(column, "")
    value = as_number(content)
    if column == "state":
        kind = {"finished": "good", "failed": "bad"}.get(content, "idle")
        return f'<span class="badge {kind}">{text(content)}</span>'
    if value is not None and column in ("loss", "fid", "images_per_second", "seconds"):
        return f"{value:,.0f}" if column in ("images_per_second", "seconds") else number(value)
    if column == "fid_name":
        return f"<code>{text(content)}</code>" if content else ""
    return text(content if len(content) <= LONG else content[: LONG - 3] + "...")


def thumbnails(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """The newest samples of each job, in the order of the table."""
    tiles = []
    for row in rows:
        if row.folder is not None and (row.folder / "samples").is_dir():
            value = as_number(row.cells.get("fid", ""))
            figure = f" {cell(row, 'state')}" if value is None else f" <b>FID {number(value)}</b>"
            shown = thumbnail(row.folder, f"newest samples of {row.title(keys)}")
            tiles.append(f'<a class="tile" href="#{row.anchor}">{shown}<span>{text(row.title(keys))}{figure}</span></a>')
    return f'<div class="thumbs">{"".join(tiles)}</div>' if tiles else ""


def summary(row: Row, keys: Sequence[str]) -> str:
    """A job's curves and newest grid, folded up."""
    value = as_number(row.cells.get("fid", ""))
    words = f"{text(row.title(keys))} {cell(row, 'state')}" + (f" <small>FID {number(value)}</small>" if value is not None else "")
    if row.folder is None:
        return details(words, missing("its folder is not in that of the sweep"), row.anchor)
    metrics = load(row.folder / "metrics.csv")
    drawn = charts(metrics, is_brief=True)
    error = read_text(row.folder / "error.txt")
    body = [
        alert("Error", [row.cells["error"]] if row.cells.get("error") else []),
        missing(metrics.problem) if metrics.problem else "",
        drawn,
        frames(row.folder, with_player=False),
        details("error.txt", code(error)) if error else "",
        details("config.yaml", code(config)) if (config := read_text(row.folder / "config.yaml")) else "",
    ]
    has_receipt = (row.folder / FILE_NAME).is_file()
    inside = "".join(body) or missing("its receipt is above" if has_receipt else "there is nothing in its folder")
    return details(words, f'<div class="job">{inside}</div>', row.anchor)
