"""What is known of a sweep: its jobs, their results, and what is made of them."""

import csv
import io
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.errors import UserError
from alphabar.files.atomic import write_text
from alphabar.runs.text_table import aligned

TABLE, PICTURE = "results.csv", "sweep.png"
KINDS = {"fid": "FID", "bpd": "bits/dim"}  # figures of merit, less is better
COSTS = {"network_evaluations": "evaluations", "seconds_per_image": "s/image"}


@dataclass
class Job:
    """A run of a sweep. overrides: what was given on its command line. result: what it handed over."""

    num: int
    overrides: dict[str, str]
    folder: Path
    state: str = "not started"
    error: str = ""
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which figure of merit it has: "fid" or "bpd"; "" for none."""
        return next((kind for kind in KINDS if self.result.get(kind)), "")

    @property
    def figure(self) -> float | None:
        """Its value; None if it was not measured, or is not a number."""
        return number(self.result[self.kind].get("value")) if self.kind else None

    @property
    def figure_name(self) -> str:
        """How it was measured."""
        return (self.result[self.kind].get("name") or "") if self.kind else ""

    @property
    def floor(self) -> float | None:
        """The same of held-out images."""
        return number(self.result[self.kind].get("floor")) if self.kind else None

    @property
    def protocol(self) -> str:
        """A hash of what must be equal for its figure to be compared with others; "" if that is not known."""
        return (self.result[self.kind].get("protocol") or "") if self.kind else ""

    def cost(self, name: str) -> float | None:
        """One of COSTS, of an image."""
        return number(self.result.get(name))

    @property
    def loss(self) -> float | None:
        return number(self.result.get("loss"))


def number(value: Any) -> float | None:
    """The value if it is a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass
class Sweep:
    """The jobs of one sweep, in the order in which they started, in one folder."""

    folder: Path
    jobs: list[Job] = field(default_factory=list)

    def keys(self) -> list[str]:
        """What was swept: the overrides that differ between jobs, or all of them if none do."""
        names = list(dict.fromkeys(key for job in self.jobs for key in job.overrides))
        swept = [name for name in names if len({job.overrides.get(name) for job in self.jobs}) > 1]
        return swept or names

    def label(self, job: Job) -> str:
        """The job's own values of what was swept."""
        return " ".join(f"{key}={job.overrides[key]}" for key in self.keys() if key in job.overrides)

    def ranked(self) -> list[Job]:
        """By their figure; those without one by loss, and last those that failed."""
        big = math.inf
        return sorted(
            self.jobs,
            key=lambda job: (job.state != "finished", big if job.figure is None else job.figure, job.loss or big, job.num),
        )

    @property
    def kind(self) -> str:
        """Of the figure of merit."""
        return next((job.kind for job in self.jobs if job.kind), "fid")

    def costs(self) -> list[str]:
        """Those that are known."""
        return [name for name in COSTS if any(job.cost(name) is not None for job in self.jobs)]

    def figure_names(self) -> list[str]:
        """How it was measured: up to three names, or what more of them have in common, with * for the rest."""
        names = sorted({job.figure_name for job in self.jobs if job.figure_name})
        words = [name.split("-") for name in names]
        if len(names) <= 3 or len(set(map(len, words))) > 1:
            return names
        return ["-".join(place[0] if len(set(place)) == 1 else "*" for place in zip(*words, strict=True))]

    def save(self) -> None:
        """Writes the table, with all overrides, those that are the same everywhere too."""
        keys = list(dict.fromkeys(key for job in self.jobs for key in job.overrides))
        costs = self.costs()
        ending = ["state", "error", "loss", self.kind, f"{self.kind}_name", *costs, "images_per_second", "seconds", "folder"]
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(["job", *keys, *ending])
        for job in self.ranked():
            values = [job.overrides.get(key, "") for key in keys]
            speed = job.result.get("images_per_second")
            figures = [job.loss, job.figure, job.figure_name, *map(job.cost, costs), speed, round(job.seconds, 1)]
            writer.writerow([job.num, *values, job.state, job.error, *figures, job.folder])
        write_text(self.folder / TABLE, table.getvalue())

    def report(self) -> str:
        """The table for the terminal."""
        keys, costs = self.keys(), self.costs()
        has_loss = any(job.loss is not None for job in self.jobs)
        has_speed = any(job.result.get("images_per_second") for job in self.jobs)
        titles = [*(["loss"] if has_loss else []), KINDS[self.kind], *(COSTS[name] for name in costs)]
        rows: list[Sequence[object]] = [["job", *keys, "state", *titles, *(["images/s"] if has_speed else []), "seconds"]]
        for job in self.ranked():
            values = [job.overrides.get(key, "") for key in keys]
            loss = [_shown(job.loss, ".4f")] if has_loss else []
            speed = [_shown(number(job.result.get("images_per_second")), ",.0f")] if has_speed else []
            spent = [_shown(job.cost(name), ".4g") for name in costs]
            rows.append([job.num, *values, job.state, *loss, _shown(job.figure, ".4g"), *spent, *speed, f"{job.seconds:,.0f}"])
        names = self.figure_names()
        note = [f"{KINDS[self.kind]} is {', '.join(names)}"] if names else []
        return "\n".join([aligned(rows), *note])


def core(name: str) -> tuple[str, ...]:
    """What must be equal whatever is swept: fid, n1000 and classifier of fid/n1000-classifier-ema-ddim50."""
    what, _, rest = name.partition("/")
    return (what, *rest.split("-")[:2])


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


opened: list[Sweep] = []


def open_sweep(folder: Path) -> Sweep:
    """This process's sweep in `folder`, the same however often a sweeper comes back with more jobs.

    Raises UserError if the folder is that of an earlier sweep.
    """
    for sweep in opened:
        if sweep.folder == folder:
            return sweep
    if (folder / TABLE).exists():
        raise UserError(f"hydra.sweep.dir={folder}: a sweep of another time is in this folder; choose another")
    opened.append(Sweep(folder))
    return opened[-1]


def write_error(job: Job, command: Sequence[str], traceback: str) -> None:
    """Leaves in the job's folder what went wrong, and the command that repeats it in a folder of its own."""
    job.folder.mkdir(parents=True, exist_ok=True)
    text = f"{job.state}: {job.error}\n\n{shlex.join(command)}\n\n{traceback}"
    write_text(job.folder / "error.txt", text.rstrip() + "\n")
