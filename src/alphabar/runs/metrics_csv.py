"""Reads the metrics.csv of a run: a row for each optimizer step at which something was logged, a column for each figure."""

import csv
import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alphabar.files.paths import display_path, unused_path
from alphabar.files.reading import read_bytes
from alphabar.runs.floor import FloorPair, floor_pair

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunMetrics:
    """The figures of a run. columns: (steps, values) by name, none of them empty. problem: what is wrong with the file, or ""."""

    columns: dict[str, tuple[list[int], list[float]]]
    problem: str = ""

    def last(self, name: str) -> float | None:
        """Returns the newest value of a figure, or None if it was not logged."""
        return self.columns[name][1][-1] if name in self.columns else None

    def last_step(self) -> int | None:
        """Returns the largest step at which something was logged."""
        return max((steps[-1] for steps, _ in self.columns.values()), default=None)

    def starting_with(self, prefix: str) -> list[str]:
        """Returns the names that begin with the prefix, in the order of the file."""
        return [name for name in self.columns if name.startswith(prefix)]

    def latest_fid(self) -> str | None:
        """Returns the name of the FID that was measured last."""
        return max(self.starting_with("fid/n"), key=lambda name: self.columns[name][0][-1], default=None)

    def floor_pair(self, fid: str) -> FloorPair | None:
        """Returns the newest value of a FID, or of its mean over sets, beside the floor of as many images; None without a floor."""
        if fid not in self.columns:
            return None
        newest = self.columns[fid][0][-1]
        figures = {
            name: values[-1]
            for name, (steps, values) in self.columns.items()
            if steps[-1] == newest or name.startswith("fid/floor-")
        }
        return floor_pair(fid, figures)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a metrics file; a last row that was cut off by a crash is left out."""
    text = read_bytes(path).decode()
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def rows_to_go_on_with(path: Path, columns: Sequence[str] = ("step",)) -> list[dict[str, str]]:
    """Returns the rows of a table to which a resumed run adds more; none if there is no such file.

    columns: those that it needs. A file that is damaged or has other content is renamed to NAME.damaged, and a line says so:
    figures of the past do not keep a run from going on. Raises OSError if it cannot be read for another reason.
    """
    if not os.path.lexists(path):
        return []
    try:
        rows = read_rows(path)
        is_whole = all({*columns} <= row.keys() and None not in row and int(row["step"]) >= 0 for row in rows)
    except (ValueError, TypeError, csv.Error):  # also where it is no text
        is_whole, rows = False, []
    if is_whole:
        return rows
    aside = unused_path(path.with_name(f"{path.name}.damaged"))
    path.rename(aside)
    log.warning("%s is damaged: renamed to %s, and begun anew", display_path(path), aside.name)
    return []


def read_metrics(path: Path) -> RunMetrics:
    """Reads metrics.csv; cells that are not numbers are left out and counted. Never raises for a damaged or missing file."""
    if not path.exists():
        return RunMetrics({})
    try:
        rows = read_rows(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return RunMetrics({}, f"{path.name} cannot be read: {type(error).__name__}")
    columns: dict[str, tuple[list[int], list[float]]] = {}
    num_bad = 0
    for row in rows:
        try:
            step = int(row["step"])
        except (KeyError, TypeError, ValueError):
            num_bad += 1
            continue
        for name, cell in row.items():
            if isinstance(name, str) and name != "step" and cell:
                try:
                    value = float(cell)
                except (TypeError, ValueError):
                    num_bad += 1
                    continue
                steps, values = columns.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    problem = f"{path.name}: left out {num_bad} rows or cells that are no numbers" if num_bad else ""
    return RunMetrics(columns, problem or ("" if columns else f"{path.name} has no figures"))
