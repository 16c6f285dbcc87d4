"""Receipts on a page: each in a table of its own, and side by side with what differs between them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from alphabar.errors import UserError
from alphabar.evaluation.compare import figures, relevant, short, title
from alphabar.evaluation.diagnostics import PANEL
from alphabar.evaluation.receipt import FILE_NAME, Figure, Receipt, differences, flat, read
from alphabar.evaluation.table import TITLES
from alphabar.reports.html import format_duration, format_number, render
from alphabar.reports.images import EmbeddedImage, embed_image

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
    complaints: list[str]
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
    path = path / FILE_NAME if path.is_dir() else path
    try:
        receipt = read(path)
        return FoundReceipt(path, path.read_text(encoding="utf-8"), receipt, summarise_receipt(receipt))
    except UserError as error:
        return FoundReceipt(path, problem=str(error))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ZeroDivisionError, OSError) as error:
        return FoundReceipt(path, problem=f"{path}: not a whole receipt: {type(error).__name__}")


def receipt_files(folder: Path) -> list[Path]:
    """Returns the receipt of a folder, and those of the folders in it."""
    return sorted({path.resolve() for path in (*folder.glob(FILE_NAME), *folder.glob(f"*/{FILE_NAME}"))})


def receipts_of_run(run: Path) -> list[FoundReceipt]:
    """Returns receipts of this run's checkpoints in the folders `evaluate` beside or above that of the run, the oldest first."""
    run = run.resolve()
    homes = [home / "evaluate" for home in list(run.parents)[1:3]]
    return [find_receipt(path) for home in homes for path in receipt_files(home) if is_about(path, run)]


def unique_receipts(receipts: Sequence[FoundReceipt]) -> list[FoundReceipt]:
    """Returns the receipts with each file once."""
    return list({found.path.resolve(): found for found in receipts}.values())


def is_about(path: Path, run: Path) -> bool:
    """Returns whether the receipt's subject is a checkpoint of the run; its path is relative to here or to a parent folder."""
    try:
        subject = json.loads(path.read_text(encoding="utf-8"))["subject"]["checkpoint"]
        return any((base / subject).resolve().is_relative_to(run) for base in (Path.cwd(), *path.resolve().parents))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def receipt_complaints(receipts: Sequence[FoundReceipt]) -> list[str]:
    """Returns the complaints of all receipts, each with the name of its receipt."""
    return [f"receipt {found.name}: {line}" for found in receipts if found.summary for line in found.summary.complaints]


def render_receipts(receipts: Sequence[FoundReceipt], run: Path | None = None) -> Markup:
    """Returns the comparison of all receipts and then each of them; nothing where there are none.

    run: the folder of the run that they should be about; None: they are about many runs, and are folded up.
    """
    good = [found if run is None else _with_note(found, run) for found in receipts if found.receipt is not None]
    return render(
        "receipts",
        comparison=compare_receipts([found.receipt for found in good if found.receipt]) if len(good) > 1 else None,
        problems=[found.problem for found in receipts if found.problem],
        receipts=good,
        is_folded=run is None,
    )


def _with_note(found: FoundReceipt, run: Path) -> FoundReceipt:
    if is_about(found.path, run.resolve()):
        return found
    subject = found.receipt.subject.get("checkpoint") if found.receipt else None
    return found._replace(foreign=f"This receipt is not about a checkpoint in this run's folder, but {subject or 'other images'}.")


def summarise_receipt(receipt: Receipt) -> ReceiptSummary:
    """Returns the summary of a receipt: complaints, figures, costs, memorisation and everything that they depend on.

    Raises KeyError, TypeError or ValueError for a receipt in which something is missing.
    """
    protocol, run, findings = receipt.protocol, receipt.run, receipt.findings
    floor, reference = protocol.get("floor"), protocol["reference"]
    seeds = [str(seed) for seed in protocol["seeds"]]
    over = f", over {len(seeds)} seeds ({', '.join(seeds)})" if len(seeds) > 1 else f", seed {seeds[0]}" if seeds else ""
    return ReceiptSummary(
        subject=subject_title(receipt.subject),
        against=f"{protocol['num']:,} images against {reference['num']:,} {reference['split']} images{over}",
        date=str(run.get("when", "")),
        complaints=[str(line) for line in findings.get("complaints", [])],
        figures=[_figure_row(figure) for figure in receipt.figures if not figure.what.endswith("_std")],
        spread_title=f"mean ± std, K = {len(seeds)}" if len(seeds) > 1 else "value",
        floor_title=f"floor, {floor['num']:,} held-out images" if floor else "floor",
        cost=_cost_line(run),
        memorisation=_memorisation_line(findings.get("memorisation")),
        protocol=flat(protocol),
        run=flat({**run, "command": " ".join(map(str, run.get("command", []))), "subject": receipt.subject}),
    )


def _figure_row(figure: Figure) -> FigureRow:
    name = TITLES.get(figure.what, figure.what.replace("_", " ").capitalize())
    if figure.name.endswith("-noise"):
        name += " of pure noise"
    floor = "" if figure.floor is None else format_number(figure.floor)
    return FigureRow(name, figure.extractor, mean_and_std(figure), floor, figure.name)


def mean_and_std(figure: Figure) -> str:
    """Returns the mean over seeds with the standard deviation, such as "1.27 ± 0.05"."""
    if not math.isfinite(figure.mean):
        return "not a number"
    return format_number(figure.mean) + ("" if figure.std is None else f" ± {figure.std:.2g}")


def subject_title(subject: Mapping[str, Any]) -> str:
    """Returns what was measured: a checkpoint, images in a folder, or held-out images."""
    if "checkpoint" in subject:
        path = Path(str(subject["checkpoint"]))
        return f"{path.name} of {path.parent.parent.name}, step {subject.get('step', '?')}"
    return f"images in {subject['samples']}" if "samples" in subject else "held-out images"


def _cost_line(run: Mapping[str, Any]) -> str:
    if "network_evaluations" not in run:
        return ""
    cost = f"{run['network_evaluations']:g} network evaluations and {run['seconds_per_image']:.3g} s an image"
    return f"{cost} on {run.get('hardware', '?')}; in all {format_duration(run['seconds'])}"


def _memorisation_line(record: Mapping[str, Any] | None) -> str:
    if not record:
        return ""
    verdict = "Memorised" if record["is_flagged"] else "No sign of memorisation"
    return (
        f"{verdict}: {record['share']:.1%} of {record['num']:,} samples are as near to a training image as the nearest 1% of "
        f"{record['num_held_out']:,} held-out images; the median distance is {format_number(record['median'])}, of held-out images "
        f"{format_number(record['median_held_out'])}."
    )


class Comparison(NamedTuple):
    """Several receipts side by side. incomparable: keys of protocols that should be equal and are not.

    differences: all keys that differ. titles, rows: a column for each key that differs and each common figure.
    """

    titles: list[str]
    rows: list[list[str]]
    differences: list[str]
    incomparable: list[str]


def compare_receipts(receipts: Sequence[Receipt]) -> Comparison:
    """Returns the figures that all receipts have, and what differs in their protocols; no titles without common figures."""
    common = [key for key in figures(receipts[0]) if all(key in figures(other) for other in receipts[1:])]
    common = [key for key in common if not key[0].endswith("_std")]
    if not common:
        return Comparison([], [], [], [])
    origins = [(*key, figures(receipts[0])[key].statistic) for key in common]
    unlike = differences([relevant(receipt.protocol, origins) for receipt in receipts])
    rows = [
        [short(values[index]) for values in unlike.values()] + [mean_and_std(figures(receipt)[key]) for key in common]
        for index, receipt in enumerate(receipts)
    ]
    incomparable = [key for key in unlike if key.split(".")[0] not in COMPARABLE_KEYS]
    return Comparison([*unlike, *map(title, common)], rows, list(unlike), incomparable)
