"""The report that every run and every sweep leaves when it ends."""

import logging
from pathlib import Path

from alphabar.errors import printable

log = logging.getLogger(__name__)


def leave_report(folder: Path) -> Path | None:
    """Writes the page of a run or a sweep that has ended into its folder and returns its path.

    If that fails, for whatever reason, it prints a line with the reason and returns None.
    """
    try:
        from alphabar.reports.report import write_report  # Jinja2 and more, which are needed at the end alone

        return write_report(folder)
    except Exception as error:  # no page is worth a run
        log.warning("no report: %s", printable(" ".join(str(error).split()).removeprefix("report: ") or type(error).__name__))
        return None
