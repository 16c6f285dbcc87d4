"""`evaluate.py report`: a run or a sweep as one HTML page."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from alphabar.errors import UserError
from alphabar.files.atomic import write_text
from alphabar.files.paths import display_path
from alphabar.reports.html import GENERATOR
from alphabar.reports.receipts import FoundReceipt, find_receipt, receipt_files
from alphabar.reports.run_page import render_run
from alphabar.reports.sweep_page import render_sweep
from alphabar.runs.provenance.current_command import with_invocations
from alphabar.runs.sweeps.sweep import TABLE

REPORT = "report.html"
RUN_FILES = ("config.yaml", "metrics.csv")


def report_command(arguments: Sequence[str]) -> str:
    """Writes the page and returns the line that says where it is.

    Raises UserError for a folder that is neither a run nor a sweep, for a bad receipt, and for a file in the way.
    """
    parser = ArgumentParser(
        with_invocations("evaluate.py report"), description="Makes one HTML page, which needs no network, of a run or a sweep."
    )
    parser.add_argument("folder", type=Path, help="that of a run or a sweep")
    parser.add_argument("receipts", nargs="*", type=Path, help="receipt.json, or the folder that it is in", metavar="RECEIPT")
    parser.add_argument("--receipts", nargs="+", type=Path, default=[], dest="more", help="folders with receipts", metavar="FOLDER")
    parser.add_argument("--out", type=Path, help=f"the file to write; by default {REPORT} in the folder", metavar="FILE")
    parser.error = fail  # type: ignore[method-assign]
    options = parser.parse_args(arguments)
    named = [
        *(require_receipt(path) for path in options.receipts),
        *(find_receipt(path) for each in options.more for path in require_receipts(each)),
    ]
    return f"report   {display_path(write_report(options.folder, named, options.out))}"


def write_report(folder: Path, receipts: Sequence[FoundReceipt] = (), out: Path | None = None) -> Path:
    """Writes the page of a run or a sweep and returns its path, which is `out` or else report.html in the folder.

    receipts: those to show beside those that are found near the run. Raises UserError for a folder that is neither a run nor a
    sweep, and for a file in the way.
    """
    out = out or folder / REPORT
    is_sweep = check_folder(folder)
    check_destination(out)
    write_page((render_sweep if is_sweep else render_run)(folder, receipts), out)
    return out


def fail(message: str) -> NoReturn:
    """Raises UserError with the message."""
    raise UserError(f"report: {message}")


def check_folder(folder: Path) -> bool:
    """Returns whether the folder is that of a sweep; it is that of a run otherwise. Raises UserError if it is neither."""
    if not folder.is_dir():
        fail(f"{folder}: " + ("is a file: give the folder of a run or a sweep" if folder.exists() else "there is no such folder"))
    if (folder / TABLE).is_file():
        return True
    if any((folder / name).is_file() for name in RUN_FILES):
        return False
    fail(f"{folder}: neither a run, which has {' or '.join(RUN_FILES)}, nor a sweep, which has {TABLE}")


def check_destination(path: Path) -> None:
    """Raises UserError if a file that is no report would be lost, or the page cannot be written there."""
    if not path.parent.is_dir():
        fail(f"--out={path}: there is no folder {path.parent}")
    if not path.exists():
        return
    if path.is_dir():
        fail(f"--out={path}: is a folder")
    with path.open("rb") as file:
        if GENERATOR.encode() not in file.read(400):
            fail(f"{path}: is there already and no report of ours; choose another with --out=FILE")


def require_receipt(path: Path) -> FoundReceipt:
    """Returns the receipt that the command line names. Raises UserError if it cannot be used."""
    found = find_receipt(path)
    if found.receipt is None:
        fail(found.problem)
    return found


def require_receipts(folder: Path) -> list[Path]:
    """Returns the receipts in a folder that the command line names. Raises UserError if there are none."""
    found = receipt_files(folder)
    if not found:
        fail(f"--receipts={folder}: there is no receipt.json in it, nor in the folders in it")
    return found


def write_page(content: str, path: Path) -> None:
    """Writes all of the page or nothing. Raises UserError if the file cannot be written."""
    try:
        write_text(path, content)
    except OSError as error:
        fail(f"{path}: cannot be written: {error.strerror}")
