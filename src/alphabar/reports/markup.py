"""Pieces of HTML; whatever comes from outside goes through `text`."""

import html
import re
from collections.abc import Sequence

LONG = 30  # characters of a cell that needs some room
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # HTML has no place for them


def text(value: object) -> str:
    """The value as text that is nothing but text, in an attribute too."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(CONTROLS.sub("\ufffd", plain), quote=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of pieces of HTML that scrolls by itself where it is too wide."""
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join("<tr>" + "".join(f"<td{_kind(cell)}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    shown = f' class="{kind}"' if kind else ""
    body = f"<table{shown}><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table">{body}</div>'


def _kind(cell: str) -> str:
    if re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?( ± [\d.e+-]+)?", cell):
        return ' class="number"'
    return ' class="long"' if len(cell) > LONG and not cell.startswith("<") else ""


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and pieces of HTML, side by side."""
    return "<dl>" + "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in rows) + "</dl>"


def details(summary: str, body: str, anchor: str = "", is_open: bool = False) -> str:
    """Something that is folded up; summary and body are pieces of HTML."""
    shown = f' id="{anchor}"' if anchor else ""
    return f"<details{shown}{' open' if is_open else ''}><summary>{summary}</summary>{body}</details>"


def code(content: str) -> str:
    """A file, as it is."""
    return f'<pre tabindex="0"><code>{text(content)}</code></pre>'


def missing(line: str) -> str:
    """What could not be shown, and why."""
    return f'<p class="missing">{text(line)}</p>'


def note(line: str) -> str:
    """What a reader must know to read a figure rightly."""
    return f'<p class="note" role="note">{text(line)}</p>'


def alert(heading: str, lines: Sequence[str]) -> str:
    """What is wrong, where nobody can overlook it; nothing if nothing is."""
    if not lines:
        return ""
    return f'<div class="alert" role="note"><strong>{text(heading)}</strong><ul>{bullets(lines)}</ul></div>'


def bullets(lines: Sequence[str]) -> str:
    """Items of a list."""
    return "".join(f"<li>{text(line)}</li>" for line in lines)


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 20 s or 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.3g} s"
