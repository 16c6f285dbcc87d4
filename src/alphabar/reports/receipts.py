"""Receipts on a page: each in a table of its own, and side by side with what differs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alphabar.errors import UserError
from alphabar.evaluation.compare import figures, relevant, short, title
from alphabar.evaluation.diagnostics import PANEL
from alphabar.evaluation.receipt import FILE_NAME, Figure, Receipt, differences, flat, read
from alphabar.evaluation.table import TITLES
from alphabar.reports.embed import picture
from alphabar.reports.markup import alert, code, details, duration, missing, note, number, pairs, table, text

FREE = ("weights", "sampler", "guidance")  # what one compares on purpose


class Found(NamedTuple):
    """A receipt in a file, or what is wrong with it."""

    path: Path
    receipt: Receipt | None
    problem: str = ""

    @property
    def name(self) -> str:
        return self.path.parent.name


def load(path: Path) -> Found:
    """Reads a receipt.json, or that of a folder; never raises for a bad one."""
    path = path / FILE_NAME if path.is_dir() else path
    try:
        receipt = read(path)
        article_of(Found(path, receipt))  # whatever is missing in it is noticed here, not in the middle of a page
    except UserError as error:
        return Found(path, None, str(error))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ZeroDivisionError, OSError) as error:
        return Found(path, None, f"{path}: not a whole receipt: {type(error).__name__}")
    return Found(path, receipt)


def under(folder: Path) -> list[Path]:
    """The receipt of a folder, and those of the folders in it."""
    return sorted({path.resolve() for path in (*folder.glob(FILE_NAME), *folder.glob(f"*/{FILE_NAME}"))})


def of_run(run: Path) -> list[Found]:
    """Receipts of this run's checkpoints in the folders `evaluate` beside or above that of the run, the oldest first."""
    run = run.resolve()
    homes = [home / "evaluate" for home in list(run.parents)[1:3]]
    return [load(path) for home in homes for path in under(home) if is_about(path, run)]


def is_about(path: Path, run: Path) -> bool:
    """Whether the receipt's subject is a checkpoint of the run; its path may begin here, or in a folder above the receipt."""
    try:
        subject = json.loads(path.read_text(encoding="utf-8"))["subject"]["checkpoint"]
        return any((base / subject).resolve().is_relative_to(run) for base in (Path.cwd(), *path.resolve().parents))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def section(found: Sequence[Found], run: Path | None = None) -> str:
    """All receipts, the comparison first; nothing where there are none.

    run: what they should be about; None: of many runs, and folded up.
    """
    good = [each for each in found if each.receipt is not None]
    parts = [missing(each.problem) for each in found if each.receipt is None]
    if len(good) > 1:
        parts.insert(0, comparison(good))
    for index, each in enumerate(good):
        shown = article(each, run, f"receipt-{index}")
        parts.append(shown if run is not None else details(f"receipt {text(each.name)}", shown))
    return "".join(parts)


def article(found: Found, run: Path | None, anchor: str) -> str:
    """One receipt, with a note if it is about something else than the run."""
    body = article_of(found)
    subject = found.receipt.subject.get("checkpoint") if found.receipt else None
    is_other = run is not None and not is_about(found.path, run.resolve())
    other = (
        note(f"This receipt is not about a checkpoint in this run's folder, but {subject or 'other images'}.") if is_other else ""
    )
    return f'<article class="card" id="{anchor}">{other}{body}</article>'


def article_of(found: Found) -> str:
    """Complaints, figures, costs, memorisation and, folded up, everything that they depend on."""
    receipt = found.receipt
    assert receipt is not None
    protocol, run, findings = receipt.protocol, receipt.run, receipt.findings
    floor, reference = protocol.get("floor"), protocol["reference"]
    seeds = [str(seed) for seed in protocol["seeds"]]
    held_out = f"floor, {floor['num']:,} held-out images" if floor else "floor"
    rows = [_row(figure) for figure in receipt.figures if not figure.what.endswith("_std")]
    against = f"{protocol['num']:,} images against {reference['num']:,} {reference['split']} images"
    over = f", over {len(seeds)} seeds ({', '.join(seeds)})" if len(seeds) > 1 else f", seed {seeds[0]}" if seeds else ""
    spread = f"mean ± std, K = {len(seeds)}" if len(seeds) > 1 else "value"
    parts = [
        f"<h3>{text(subject_of(receipt.subject))} <small>{text(found.name)}</small></h3>",
        f'<p class="quiet">{text(against + over)} · {text(run.get("when", ""))}</p>',
        alert("Complaints", [str(line) for line in findings.get("complaints", [])]),
        table(["figure", "features", text(spread), text(held_out), "full name"], rows),
        _costs(run),
        _memorisation(found, findings.get("memorisation")),
        details("Protocol: what must be equal for figures to be compared", _flat(protocol)),
        details(
            "Run: code, versions, hardware",
            _flat({**run, "command": " ".join(map(str, run.get("command", []))), "subject": receipt.subject}),
        ),
        details(f"{text(found.name)}/{text(found.path.name)}", code(found.path.read_text(encoding="utf-8"))),
    ]
    return "".join(parts)


def _row(figure: Figure) -> list[str]:
    name = TITLES.get(figure.what, figure.what.replace("_", " ").capitalize())
    if figure.name.endswith("-noise"):
        name += " of pure noise"
    floor = "" if figure.floor is None else number(figure.floor)
    return [text(name), text(figure.extractor), spread(figure), floor, f"<code>{text(figure.name)}</code>"]


def spread(figure: Figure) -> str:
    """1.27 ± 0.05"""
    if not math.isfinite(figure.mean):
        return "not a number"
    return number(figure.mean) + ("" if figure.std is None else f" ± {figure.std:.2g}")


def subject_of(subject: Mapping[str, Any]) -> str:
    """What was judged."""
    if "checkpoint" in subject:
        path = Path(str(subject["checkpoint"]))
        return f"{path.name} of {path.parent.parent.name}, step {subject.get('step', '?')}"
    return f"images in {subject['samples']}" if "samples" in subject else "held-out images"


def _costs(run: Mapping[str, Any]) -> str:
    if "network_evaluations" not in run:
        return ""
    shown = f"{run['network_evaluations']:g} network evaluations and {run['seconds_per_image']:.3g} s an image"
    return f'<p class="quiet">{text(shown)} on {text(run.get("hardware", "?"))}; in all {text(duration(run["seconds"]))}</p>'


def _memorisation(found: Found, record: Mapping[str, Any] | None) -> str:
    if not record:
        return ""
    verdict = "Memorised" if record["is_flagged"] else "No sign of memorisation"
    line = (
        f"{verdict}: {record['share']:.1%} of {record['num']:,} samples are as near to a training image as the nearest 1% of "
        f"{record['num_held_out']:,} held-out images; the median distance is {number(record['median'])}, of held-out images "
        f"{number(record['median_held_out'])}."
    )
    panel = picture(found.path.parent / PANEL, "samples beside their nearest training images, and a histogram of distances")
    wide = f'<div class="scroll panel" tabindex="0" role="region" aria-label="memorisation">{panel}</div>' if panel else ""
    return f"<p>{text(line)}</p>{wide}"


def _flat(content: Mapping[str, Any]) -> str:
    return pairs([(key, text(value)) for key, value in flat(content).items()])


def comparison(found: Sequence[Found]) -> str:
    """What receipts have in common, side by side, after what is not equal in their protocols."""
    receipts = [each.receipt for each in found if each.receipt is not None]
    common = [key for key in figures(receipts[0]) if all(key in figures(other) for other in receipts[1:])]
    common = [key for key in common if not key[0].endswith("_std")]
    if not common:
        return note("These receipts have no figure in common, so they are not put side by side.")
    origins = [(*key, figures(receipts[0])[key].statistic) for key in common]
    unlike = differences([relevant(receipt.protocol, origins) for receipt in receipts])
    head = ["receipt", *(text(key) for key in unlike), *(text(title(key)) for key in common)]
    rows = [
        [f'<a href="#receipt-{index}">{text(each.name)}</a>', *(text(short(values[index])) for values in unlike.values())]
        + [spread(figures(receipt)[key]) for key in common]
        for index, (each, receipt) in enumerate(zip(found, receipts, strict=True))
    ]
    serious = [key for key in unlike if key.split(".")[0] not in FREE]
    if serious:
        said = alert("Not measured alike, so not to be compared: these differ", serious)
    elif unlike:
        said = note(f"Measured alike but for what is compared: {', '.join(unlike)}.")
    else:
        said = '<p class="quiet">Measured alike.</p>'
    return f'<article class="card"><h3>Side by side</h3>{said}{table(head, rows, "sortable")}</article>'


def complaints(found: Sequence[Found]) -> list[str]:
    """Of all receipts."""
    return [
        f"receipt {each.name}: {line}" for each in found if each.receipt for line in each.receipt.findings.get("complaints", [])
    ]
