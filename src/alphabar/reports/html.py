"""HTML of the reports: Jinja2 templates in `templates/`, which escape every value, and the page that holds them together."""

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import alphabar
from alphabar.evaluation.table import format_number

GENERATOR = '<meta name="generator" content="alphabar report">'  # the line by which a report is recognised
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # not allowed in HTML, not even escaped
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ± [\d.e+-]+)?")


class Section(NamedTuple):
    """A part of the page that the navigation links to. A section with an empty body is left out."""

    anchor: str
    title: str
    body: Markup


def render(template: str, **values: object) -> Markup:
    """Returns the HTML of `templates/<template>.html.j2`. Every value that is not Markup already is escaped."""
    return Markup(_environment().get_template(f"{template}.html.j2").render(values).strip())


def render_page(title: str, header: Markup, sections: Sequence[Section]) -> Markup:
    """Returns the whole page as one file, whose Content-Security-Policy forbids everything that is not in the file."""
    style, script = _asset("report.css"), _asset("report.js")
    return render(
        "page",
        title=title,
        header=header,
        sections=[section for section in sections if section.body],
        generator=Markup(GENERATOR),
        style=Markup(style),
        script=Markup(script),
        policy=(
            f"default-src 'none'; img-src data:; style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        version=alphabar.__version__,
        date=f"{datetime.now():%Y-%m-%d %H:%M}",
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alphabar.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number}
    environment.tests |= {"numeric": lambda cell: NUMBER.fullmatch(str(cell)) is not None}
    return environment


def _printable(value: object) -> object:
    """Returns the value as text without the characters that HTML cannot hold; Markup as it is."""
    if isinstance(value, Markup):
        return value
    return CONTROL_CHARACTERS.sub("\ufffd", str(value).encode("utf-8", "replace").decode("utf-8"))


def _asset(name: str) -> str:
    return (files("alphabar.reports") / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
