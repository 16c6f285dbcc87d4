"""The record of a sweep: its jobs and their results."""

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from alphabar.files.atomic import write_text
from alphabar.runs.floor import MEAN_FID, times_floor

TABLE, PICTURE, PARETO_PICTURE, ERROR = "results.csv", "sweep.png", "pareto.png", "error.txt"
SEED_KEY = "seed"  # the override by which jobs of one setting differ
METRICS = {"fid": "FID", "bpd": "bits/dim"}  # figures of merit and their titles; less is better
NETWORK_EVALUATIONS = "network_evaluations"
COSTS = {NETWORK_EVALUATIONS: "evaluations", "seconds_per_image": "s/image"}  # of an image, and their titles


@dataclass
class Job:
    """A run of a sweep. overrides: the keys and values of its command line. result: what the run handed over when it ended."""

    num: int
    overrides: dict[str, str]
    folder: Path
    state: str = "not started"
    error: str = ""
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The figure of merit that the job has: "fid" or "bpd"; "" if it has none."""
        return next((metric for metric in METRICS if self.result.get(metric)), "")

    @property
    def figure(self) -> float | None:
        """The value of the figure of merit, or None if it was not measured or is not a number."""
        return finite_number(self.result[self.metric].get("value")) if self.metric else None

    @property
    def figure_name(self) -> str:
        """The full name of the figure of merit, which tells how it was measured."""
        return (self.result[self.metric].get("name") or "") if self.metric else ""

    @property
    def floor(self) -> float | None:
        """The figure of merit of as many held-out images, or None if it was not measured."""
        return finite_number(self.result[self.metric].get("floor")) if self.metric else None

    @property
    def times_floor(self) -> float | None:
        """FID as a multiple of the floor of as many images, if need be of its mean over sets; None where there is none."""
        entries = (self.result.get(metric) or {} for metric in ("fid", MEAN_FID))
        ratios = (times_floor(finite_number(each.get("value")), finite_number(each.get("floor"))) for each in entries)
        return next((ratio for ratio in ratios if ratio is not None), None)

    @property
    def protocol(self) -> str:
        """A hash of everything that must be equal for two figures to be comparable; "" if it is not known."""
        return (self.result[self.metric].get("protocol") or "") if self.metric else ""

    @property
    def loss(self) -> float | None:
        """The final training loss."""
        return finite_number(self.result.get("loss"))

    @property
    def images_per_second(self) -> float | None:
        """The speed of training."""
        return finite_number(self.result.get("images_per_second"))

    def cost(self, name: str) -> float | None:
        """Returns one of COSTS, or None if it was not measured."""
        return finite_number(self.result.get(name))


def jobs_by_setting(jobs: Sequence[Job]) -> list[list[Job]]:
    """Returns the jobs in groups that differ in their seed alone, in the order of their first jobs."""
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        setting = tuple((key, value) for key, value in job.overrides.items() if key != SEED_KEY)
        groups.setdefault(setting, []).append(job)
    return list(groups.values())


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the standard deviation with K - 1; None for a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def finite_number(value: Any) -> float | None:
    """Returns the value if it is a finite number, and None otherwise, also for an integer beyond the range of a float."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:
        return None


def parse_number(text: str) -> float | None:
    """Returns the value of a text that is a finite number, and None for any other."""
    try:
        return finite_number(float(text))
    except ValueError:
        return None


class SweepCommand(NamedTuple):
    """The command that began a sweep: the path of its script, its arguments, and the folder in which it was started."""

    script: str
    arguments: list[str]
    working_directory: str


class ResultColumn(NamedTuple):
    """A figure of every job, with the format in which it is shown. has_spread: whether its deviation over seeds is shown."""

    title: str
    spec: str
    values: Sequence[float | None]
    has_spread: bool = False

    def cells(self) -> list[str]:
        """Returns the values as text, an empty one where there is none."""
        return ["" if value is None else format(value, self.spec) for value in self.values]

    def mean_cell(self, values: Sequence[float]) -> str:
        """Returns the mean of some of the values, with their deviation where it is shown; "" for none."""
        if not values:
            return ""
        mean, deviation = mean_and_deviation(values)
        return format(mean, self.spec) + (f" +- {deviation:.2g}" if self.has_spread and deviation is not None else "")


@dataclass
class Sweep:
    """The jobs of one sweep, in the order in which they started, in one folder.

    command: None for a sweep read from its table. trust: the overrides `trust=...` with which it goes on, for all of its jobs.
    """

    folder: Path
    jobs: list[Job] = field(default_factory=list)
    command: SweepCommand | None = None
    trust: list[str] = field(default_factory=list)

    def swept_keys(self) -> list[str]:
        """Returns the keys that were swept: those of the overrides that differ between jobs, or all of them if none do."""
        names = list(dict.fromkeys(key for job in self.jobs for key in job.overrides))
        swept = [name for name in names if len({job.overrides.get(name) for job in self.jobs}) > 1]
        return swept or names

    def label(self, overrides: Mapping[str, str]) -> str:
        """Returns the overrides of a job's swept keys, as on a command line."""
        return " ".join(f"{key}={overrides[key]}" for key in self.swept_keys() if key in overrides)

    def ranked(self) -> list[Job]:
        """Returns the jobs by their figure; then those without one by loss, and last those that failed."""
        big = math.inf
        return sorted(
            self.jobs,
            key=lambda job: (job.state != "finished", big if job.figure is None else job.figure, job.loss or big, job.num),
        )

    @property
    def metric(self) -> str:
        """The figure of merit of the first job that has one; "fid" if none has."""
        return next((job.metric for job in self.jobs if job.metric), "fid")

    def result_columns(self) -> list["ResultColumn"]:
        """Returns the columns that have a value in any job, and always the figure of merit, in the order of `ranked`."""
        jobs = self.ranked()
        columns = [
            ResultColumn("loss", ".4f", [job.loss for job in jobs], has_spread=True),
            ResultColumn(METRICS[self.metric], ".4g", [job.figure for job in jobs], has_spread=True),
            ResultColumn("x floor", ".3g", [job.times_floor if job.metric == "fid" else None for job in jobs]),
            *(ResultColumn(title, ".4g", [job.cost(name) for job in jobs]) for name, title in COSTS.items()),
            ResultColumn("images/s", ",.0f", [job.images_per_second for job in jobs]),
            ResultColumn("seconds", ",.0f", [job.seconds for job in jobs]),
        ]
        return [column for column in columns if column.title == METRICS[self.metric] or set(column.values) != {None}]

    def figure_names(self) -> list[str]:
        """Returns up to three names of the figure of merit; of more names their common parts, with * for the rest."""
        names = sorted({job.figure_name for job in self.jobs if job.figure_name})
        words = [name.split("-") for name in names]
        if len(names) <= 3 or len(set(map(len, words))) > 1:
            return names
        return ["-".join(place[0] if len(set(place)) == 1 else "*" for place in zip(*words, strict=True))]

    def save(self) -> None:
        """Writes the table results.csv with all overrides, including those that are equal in all jobs."""
        keys = list(dict.fromkeys(key for job in self.jobs for key in job.overrides))
        costs = [name for name in COSTS if any(job.cost(name) is not None for job in self.jobs)]
        names = _columns_of(self.metric)
        over_sets = _columns_of(MEAN_FID) if any(job.result.get(MEAN_FID) for job in self.jobs) else []
        ending = ["state", "error", "loss", *names, *over_sets, *costs, "images_per_second", "seconds", "folder"]
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(["job", *keys, *ending])
        for job in self.ranked():
            values = [job.overrides.get(key, "") for key in keys]
            speed = job.result.get("images_per_second")
            mean = job.result.get(MEAN_FID) or {}
            means = [mean.get(key) for key in ("value", "name", "floor")] if over_sets else []
            figures = [job.loss, job.figure, job.figure_name, job.floor, *means]
            ending = [*map(job.cost, costs), speed, round(job.seconds, 1), job.folder]
            writer.writerow([job.num, *values, job.state, job.error, *figures, *ending])
        write_text(self.folder / TABLE, table.getvalue())


def read_sweep(folder: Path) -> Sweep:
    """Reads the record of a sweep from its results.csv.

    Raises OSError, UnicodeDecodeError, csv.Error, or for a job without a number KeyError or ValueError.
    """
    with (folder / TABLE).open(newline="", encoding="utf-8") as file:
        return Sweep(folder, [_read_job({str(key): str(cell or "") for key, cell in row.items()}) for row in csv.DictReader(file)])


def _columns_of(metric: str) -> list[str]:
    """Returns the columns of the table with the value of a figure, its full name, and its floor."""
    return [metric, f"{metric}_name", f"{metric}_floor"]


def _read_job(cells: Mapping[str, str]) -> Job:
    metrics = (*METRICS, MEAN_FID)
    floors = [f"{metric}_floor" for metric in metrics]
    numbers = ("loss", "images_per_second", "seconds", *metrics, *floors, *COSTS)
    figures = {name: parse_number(cells.get(name, "")) for name in numbers}
    names = {metric: cells.get(f"{metric}_name", "") for metric in metrics}
    measured = {
        metric: {"name": name, "value": figures[metric], "floor": figures[f"{metric}_floor"]}
        for metric, name in names.items()
        if name or cells.get(metric)
    }
    ending = {"job", "state", "error", "folder", "None", *figures, *(f"{metric}_name" for metric in metrics)}
    return Job(
        num=int(cells["job"]),
        overrides={key: cell for key, cell in cells.items() if cell and key not in ending},
        folder=Path(cells.get("folder", "")),
        state=cells.get("state", ""),
        error=cells.get("error", ""),
        seconds=figures["seconds"] or 0.0,
        result={**figures, **dict.fromkeys(metrics), **measured},
    )


def comparable_part(name: str) -> tuple[str, ...]:
    """Returns the parts that comparable figures share: (fid, n1000, classifier) of fid/n1000-classifier-ema-ddim50."""
    what, _, rest = name.partition("/")
    return (what, *rest.split("-")[:2])


def write_error(job: Job, command: Sequence[str], traceback: str) -> None:
    """Writes error.txt into the job's folder: the error, and the command that repeats the job in a new folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    text = f"{job.state}: {job.error}\n\n{shlex.join(command)}\n\n{traceback}"
    write_text(job.folder / ERROR, text.rstrip() + "\n")
