"""`evaluate.py report`: a run or a sweep as one HTML page."""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from alphabar.errors import UserError
from alphabar.reports import run_page, sweep_page
from alphabar.reports.page import MARK
from alphabar.reports.receipts import Found, load, under
from alphabar.runs.console import shown
from alphabar.runs.sweep import TABLE

PAGE = "report.html"
RUN_FILES = ("config.yaml", "metrics.csv")


def main(words: Sequence[str]) -> None:
    """Writes the page, and says where it is. Raises UserError for what is no run, sweep or receipt, and for a file in the way."""
    parser = ArgumentParser("evaluate.py report", description="Makes one HTML page, which needs no network, of a run or a sweep.")
    parser.add_argument("folder", type=Path, help="that of a run or a sweep")
    parser.add_argument("receipts", nargs="*", type=Path, help="receipt.json, or the folder that it is in", metavar="RECEIPT")
    parser.add_argument("--receipts", nargs="+", type=Path, default=[], dest="more", help="folders with receipts", metavar="FOLDER")
    parser.add_argument("--out", type=Path, help=f"the file to write; by default {PAGE} in the folder", metavar="FILE")
    parser.error = complain  # type: ignore[method-assign]
    args = parser.parse_args(words)
    folder: Path = args.folder
    out: Path = args.out or folder / PAGE
    kind = kind_of(folder)
    must_be_ours(out)
    given = [
        *(must_be_good(load(path)) for path in args.receipts),
        *(load(path) for each in args.more for path in receipts_in(each)),
    ]
    content = (run_page if kind == "run" else sweep_page).make(folder, given)
    write(content, out)
    print(f"report   {shown(out)}")


def complain(message: str) -> NoReturn:
    raise UserError(f"report: {message}")


def kind_of(folder: Path) -> str:
    """Raises UserError for what is neither a run nor a sweep."""
    if not folder.is_dir():
        complain(
            f"{folder}: " + ("is a file: give the folder of a run or a sweep" if folder.exists() else "there is no such folder")
        )
    if (folder / TABLE).is_file():
        return "sweep"
    if any((folder / name).is_file() for name in RUN_FILES):
        return "run"
    complain(f"{folder}: neither a run, which has {' or '.join(RUN_FILES)}, nor a sweep, which has {TABLE}")


def must_be_ours(path: Path) -> None:
    """Raises UserError if a file that we did not write would be lost, or the page has no place."""
    if not path.parent.is_dir():
        complain(f"--out={path}: there is no folder {path.parent}")
    if not path.exists():
        return
    if path.is_dir():
        complain(f"--out={path}: is a folder")
    with path.open("rb") as file:
        if MARK.encode() not in file.read(400):
            complain(f"{path}: is there already and no report of ours; choose another with --out=FILE")


def must_be_good(found: Found) -> Found:
    """Raises UserError for a receipt that was named and cannot be used."""
    if found.receipt is None:
        complain(found.problem)
    return found


def receipts_in(folder: Path) -> list[Path]:
    """Raises UserError if there are none."""
    found = under(folder)
    if not found:
        complain(f"--receipts={folder}: there is no receipt.json in it, nor in the folders in it")
    return found


def write(content: str, path: Path) -> None:
    """All of it or nothing. Raises UserError if the file cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        complain(f"{path}: cannot be written: {error.strerror}")
