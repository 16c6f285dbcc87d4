"""Receipts on a page: each in a table of its own, and side by side with what differs between them."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from alphabar.errors import UserError
from alphabar.evaluation.compare import compare_receipts
from alphabar.evaluation.receipt import Figure, Receipt, flatten_mapping, has_figures, read_receipt
from alphabar.evaluation.table import format_cost, format_mean, format_number, metric_title, without_deviations
from alphabar.files.reading import read_bytes
from alphabar.plotting.memorisation import PANEL
from alphabar.progress import format_duration
from alphabar.reports.html import render
from alphabar.reports.images import EmbeddedImage, embed_image
from alphabar.runs.provenance.receipt import FILE_NAME, MAX_BYTES, receipt_path

COMPARABLE_KEYS = ("weights", "sampler", "guidance")  # keys of protocols whose values are compared on purpose


class FigureRow(NamedTuple):
    """A row of the table of a receipt's figures."""

    title: str
    features: str
    value: str
    floor: str
    name: str


class ReceiptSummary(NamedTuple):
    """A receipt as the page shows it."""

    subject: str
    against: str
    date: str
    warnings: list[str]
    figures: list[FigureRow]
    spread_title: str
    floor_title: str
    cost: str
    memorisation: str
    protocol: dict[str, Any]
    run: dict[str, Any]


class FoundReceipt(NamedTuple):
    """A receipt in a file with its summary, or the problem because of which it cannot be shown."""

    path: Path
    content: str = ""
    receipt: Receipt | None = None
    summary: ReceiptSummary | None = None
    problem: str = ""
    foreign: str = ""

    @property
    def name(self) -> str:
        return self.path.parent.name

    @property
    def panel(self) -> EmbeddedImage | None:
        """The picture of the samples nearest to training images, if it lies beside the receipt."""
        return embed_image(self.path.parent / PANEL)


def find_receipt(path: Path) -> FoundReceipt:
    """Reads a receipt.json, given as the file or as its folder. Never raises for a bad receipt."""
    path = receipt_path(path)
    try:
        receipt = read_receipt(path)
        return FoundReceipt(path, path.read_text(encoding="utf-8"), receipt, summarise_receipt(receipt))
    except UserError as error:
        return FoundReceipt(path, problem=str(error))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ZeroDivisionError, OSError) as error:
        return FoundReceipt(path, problem=f"{path}: not a whole receipt: {type(error).__name__}")


def receipt_files(folder: Path) -> list[Path]:
    """Returns the receipt of evaluate.py in a folder, and those in the folders in it."""
    return sorted(path for path in receipts_in(folder) if has_figures(path))


def receipts_in(folder: Path) -> set[Path]:
    """Returns the receipt of any command in a folder, and those in the folders in it."""
    return {path.resolve() for path in (*folder.glob(FILE_NAME), *folder.glob(f"*/{FILE_NAME}"))}


def receipts_of_run(run: Path) -> list[FoundReceipt]:
    """Returns receipts of this run's checkpoints in the folders `evaluate` beside or above that of the run, the oldest first."""
    run = run.resolve()
    homes = [home / "evaluate" for home in list(run.parents)[1:3]]
    return [find_receipt(path) for home in homes for path in sorted(receipts_in(home)) if is_receipt_of(path, run)]


def unique_receipts(receipts: Sequence[FoundReceipt]) -> list[FoundReceipt]:
    """Returns the receipts with each file once."""
    return list({found.path.resolve(): found for found in receipts}.values())


def is_receipt_of(path: Path, run: Path) -> bool:
    """Returns whether the receipt's subject is a checkpoint of the run; its path is relative to here or to a parent folder."""
    try:
        subject = json.loads(read_bytes(path, MAX_BYTES))["subject"]["checkpoint"]
        return any((base / subject).resolve().is_relative_to(run) for base in (Path.cwd(), *path.resolve().parents))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def receipt_warnings(receipts: Sequence[FoundReceipt]) -> list[str]:
    """Returns the warnings of all receipts, each with the name of its receipt."""
    return [f"receipt {found.name}: {line}" for found in receipts if found.summary for line in found.summary.warnings]


def render_receipts(receipts: Sequence[FoundReceipt], run: Path | None = None) -> Markup:
    """Returns the comparison of all receipts and then each of them; nothing where there are none.

    run: the folder of the run that they should be about; None: they are about many runs, and are folded up.
    """
    good = [found if run is None else _with_note(found, run) for found in receipts if found.receipt is not None]
    return render(
        "receipts",
        comparison=compare_on_page([found.receipt for found in good if found.receipt]) if len(good) > 1 else None,
        problems=[found.problem for found in receipts if found.problem],
        receipts=good,
        is_folded=run is None,
    )


def _with_note(found: FoundReceipt, run: Path) -> FoundReceipt:
    if is_receipt_of(found.path, run.resolve()):
        return found
    subject = found.receipt.identity.get("checkpoint") if found.receipt else None
    return found._replace(foreign=f"This receipt is not about a checkpoint in this run's folder, but {subject or 'other images'}.")


def summarise_receipt(receipt: Receipt) -> ReceiptSummary:
    """Returns the summary of a receipt: warnings, figures, costs, memorisation and everything that they depend on.

    Raises KeyError, TypeError or ValueError for a receipt in which something is missing.
    """
    protocol, run, diagnostics = receipt.protocol, receipt.run, receipt.diagnostics
    floor, reference = protocol.get("floor"), protocol["reference"]
    seeds = [str(seed) for seed in protocol["seeds"]]
    without_config = {key: value for key, value in run.items() if key != "config"}  # long, and in the file below
    over = f", over {len(seeds)} seeds ({', '.join(seeds)})" if len(seeds) > 1 else f", seed {seeds[0]}" if seeds else ""
    return ReceiptSummary(
        subject=subject_title(receipt.identity),
        against=f"{protocol['num']:,} images against {reference['num']:,} {reference['split']} images{over}",
        date=str(run.get("begin", run.get("when", ""))),
        warnings=[str(line) for line in diagnostics.get("complaints", [])],
        figures=[_figure_row(figure) for figure in without_deviations(receipt)],
        spread_title=f"mean ± std, K = {len(seeds)}" if len(seeds) > 1 else "value",
        floor_title=f"floor, {floor['num']:,} held-out images" if floor else "floor",
        cost=_cost_line(run),
        memorisation=_memorisation_line(diagnostics.get("memorisation")),
        protocol=flatten_mapping(protocol),
        run=flatten_mapping({**without_config, "command": _command(run.get("command")), "subject": receipt.identity}),
    )


def _command(command: object) -> str:
    """Returns the command of a start, which receipts of earlier versions have as a list of words."""
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")


def _figure_row(figure: Figure) -> FigureRow:
    title = metric_title(figure).replace("_", " ")
    name = title[:1].upper() + title[1:]
    if figure.name.endswith("-noise"):
        name += " of pure noise"
    floor = "" if figure.floor is None else format_number(figure.floor)
    return FigureRow(name, figure.extractor, format_figure(figure), floor, figure.name)


def format_figure(figure: Figure) -> str:
    """Returns the mean over seeds with the standard deviation, such as "1.27 ± 0.05"."""
    return format_mean(figure, "±") if math.isfinite(figure.mean) else "not a number"


def subject_title(subject: Mapping[str, Any]) -> str:
    """Returns what was measured: a checkpoint, images in a folder, or held-out images."""
    if "checkpoint" in subject:
        path = Path(str(subject["checkpoint"]))
        return f"{path.name} of {path.parent.parent.name}, step {subject.get('step', '?')}"
    return f"images in {subject['samples']}" if "samples" in subject else "held-out images"


def _cost_line(run: Mapping[str, Any]) -> str:
    cost = format_cost(run)
    return f"{cost} on {run.get('hardware', '?')}; in all {format_duration(run['seconds'])}" if cost else ""


def _memorisation_line(record: Mapping[str, Any] | None) -> str:
    if not record:
        return ""
    verdict = "Memorised" if record["is_flagged"] else "No sign of memorisation"
    return (
        f"{verdict}: {record['share']:.1%} of {record['num']:,} samples are as near to a training image as the nearest 1% of "
        f"{record['num_held_out']:,} held-out images; the median distance is {format_number(record['median'])}, of held-out images "
        f"{format_number(record['median_held_out'])}."
    )


class SideBySide(NamedTuple):
    """Several receipts side by side: a column for each key of their protocols that differs, and for each common figure.

    differences: all keys that differ. incomparable: those that should be equal.
    """

    titles: list[str]
    rows: list[list[str]]
    differences: list[str]
    incomparable: list[str]


def compare_on_page(receipts: Sequence[Receipt]) -> SideBySide:
    """Returns the figures that all receipts have, and what differs in their protocols; no titles without common figures."""
    comparison = compare_receipts([receipt._replace(figures=tuple(without_deviations(receipt))) for receipt in receipts])
    if not comparison.figures:
        return SideBySide([], [], [], [])
    incomparable = list(comparison.refused(COMPARABLE_KEYS))
    return SideBySide(comparison.titles(), comparison.rows(format_figure), list(comparison.unlike), incomparable)
