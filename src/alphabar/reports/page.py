"""The page around the sections: one file that needs no network and cannot reach one."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import alphabar
from alphabar.reports.markup import text
from alphabar.reports.script import SCRIPT
from alphabar.reports.style import STYLE

MARK = '<meta name="generator" content="alphabar report">'  # by which a page of ours is known


class Section(NamedTuple):
    """A part of the page that the navigation leads to; body: a piece of HTML, which may be empty."""

    anchor: str
    title: str
    body: str


def page(title: str, header: str, sections: Sequence[Section]) -> str:
    """The whole page; sections without a body are left out. header: a piece of HTML."""
    shown = [section for section in sections if section.body]
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{section.anchor}">{text(section.title)}</a>' for section in shown)
    body = "".join(f'<section id="{section.anchor}"><h2>{text(section.title)}</h2>{section.body}</section>' for section in shown)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#content">Skip to the content</a>\n'
        f'<nav aria-label="sections"><a class="home" href="#top">{text(title)}</a>{links}</nav>\n'
        f'<header id="top">{header}</header>\n<main id="content">{body}</main>\n'
        f"<footer>Made by alphabar {text(alphabar.__version__)} on {datetime.now():%Y-%m-%d %H:%M}. "
        "Everything is in this one file; it asks nothing of any network.</footer>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
