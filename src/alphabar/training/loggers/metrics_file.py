"""metrics.csv: the figures of a run, one row a step."""

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from alphabar.files.atomic import changed_in_place, write_text
from alphabar.runs.metrics_csv import rows_to_go_on_with

REPLACED = "metrics_replaced.csv"


class MetricsFile(Logger):
    """Writes each row at once; figures of the same step share a row, and a new column widens the file.

    A resumed run keeps the rows up to its checkpoint's step. Later rows, which will be logged again, are moved to
    `metrics_replaced.csv` with the step from which the run was resumed (`resumed_at`), so that nothing is lost.
    """

    def __init__(self, run_dir: Path, resumed_at: int | None = None) -> None:
        super().__init__()
        self.path = run_dir / "metrics.csv"
        self.columns: list[str] = ["step"]
        self.rows: list[dict[str, str]] = []
        self.last_row_at = 0
        if resumed_at is not None and self.path.exists():
            self._resume_at(resumed_at)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the configuration has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds figures to the row of `step`, or to the newest row if `step` is before that, as stock callbacks count it."""
        newest = int(self.rows[-1]["step"]) if self.rows else 0
        values = {"step": str(max(step or 0, newest))} | {name: format(value, ".8g") for name, value in metrics.items()}
        same_row = bool(self.rows) and self.rows[-1]["step"] == values["step"]
        row = self.rows.pop() | values if same_row else values
        self.rows.append(row)
        new_columns = [name for name in row if name not in self.columns]
        if new_columns or not self.path.exists():
            self.columns += new_columns
            self._rewrite()
            return
        with changed_in_place(self.path) as file:
            file.seek(self.last_row_at if same_row else 0, os.SEEK_SET if same_row else os.SEEK_END)
            self.last_row_at = file.tell()
            file.write(self._line(row).encode())
            file.truncate()

    def _line(self, row: Mapping[str, str]) -> str:
        line = io.StringIO()
        csv.DictWriter(line, self.columns, lineterminator="\n").writerow(row)
        return line.getvalue()

    def _rewrite(self) -> None:
        head = ",".join(self.columns) + "\n" + "".join(self._line(row) for row in self.rows[:-1])
        write_text(self.path, head + "".join(self._line(row) for row in self.rows[-1:]))
        self.last_row_at = len(head.encode())

    def _set_aside(self, rows: list[dict[str, str]]) -> None:
        """Appends rows to `metrics_replaced.csv`."""
        path = self.path.with_name(REPLACED)
        rows = [*rows_to_go_on_with(path), *rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())

    @rank_zero_only
    def _resume_at(self, step: int) -> None:
        rows = rows_to_go_on_with(self.path)
        self.columns = list(rows[0]) if rows else self.columns
        self.rows = [row for row in rows if int(row["step"]) <= step]  # later ones come after all of these
        if len(self.rows) < len(rows):
            self._set_aside([{"resumed_at": str(step)} | row for row in rows[len(self.rows) :]])
        self._rewrite()  # also where nothing is set aside: the last row may have been cut off
