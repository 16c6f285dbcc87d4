"""The page of a run."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alphabar.evaluation.diagnostics import PANEL
from alphabar.reports import health, receipts
from alphabar.reports.embed import MAX_FRAMES, embed, evenly, image, picture
from alphabar.reports.markup import alert, code, details, duration, missing, number, pairs, text
from alphabar.reports.metrics import Metrics, charts, load
from alphabar.reports.page import Section, page
from alphabar.reports.receipts import Found
from alphabar.reports.words import in_words, loaded, method, target


def make(folder: Path, given: Sequence[Found]) -> str:
    """The page. given: receipts beside those that are found."""
    found = list({each.path.resolve(): each for each in (*given, *receipts.of_run(folder))}.values())
    metrics = load(folder / "metrics.csv")
    config = read_text(folder / "config.yaml")
    settings = loaded(config) or {}
    name = str(settings.get("name") or folder.resolve().name)
    sections = [
        Section("samples", "Samples", samples(folder)),
        Section("curves", "Curves", curves(folder, metrics)),
        Section("evaluations", "Evaluations", receipts.section(found, folder)),
        Section("health", "Health", health.section(metrics) + _panel(folder)),
        Section("config", "Configuration", configuration(config, settings)),
    ]
    return page(name, header(name, settings, metrics, found), sections)


def read_text(path: Path) -> str:
    """What is in a text file; nothing if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def header(name: str, settings: dict[str, Any], metrics: Metrics, found: Sequence[Found]) -> str:
    """Name, facts, complaints and settings."""
    parts = [
        f'<p class="kicker">Training run</p><h1>{text(name)}</h1>',
        subtitle(settings),
        facts(metrics),
        alert("To look at", [*health.broken(metrics), *receipts.complaints(found)]),
    ]
    return "".join(parts)


def subtitle(settings: dict[str, Any]) -> str:
    """In a line what was trained on what."""
    network, data = target(settings.get("network")), settings.get("data")
    known = method(settings) or " / ".join(
        target(settings.get(part)) for part in ("parameterization", "schedule") if part in settings
    )
    name = str(data.get("name") or target(data)) if isinstance(data, dict) else ""
    words = [known, network, name]
    return f'<p class="lead">{" · ".join(text(word) for word in words if word)}</p>' if any(words) else ""


def facts(metrics: Metrics) -> str:
    """The few numbers that one looks for first."""
    tiles = []
    fid = metrics.fid()
    if fid is not None:
        value, floor = metrics.last(fid), metrics.floor(fid)
        more = "" if floor is None else f"floor {number(floor)} (held-out images)"
        tiles.append(("FID", number(value or 0.0), f"{text(more)}<code>{text(fid)}</code>", "wide"))
    loss, images, seconds = (metrics.last(f"train/{name}") for name in ("loss", "images", "seconds"))
    if loss is not None:
        tiles.append(("final loss", number(loss), "", ""))
    if (step := metrics.last_step()) is not None:
        tiles.append(("steps", f"{step:,}", "", ""))
    if images is not None:
        tiles.append(("images seen", f"{images:,.0f}", "", ""))
    if seconds:
        speed = f"{images / seconds:,.0f} images/s" if images else ""
        tiles.append(("training time", duration(seconds), speed, ""))
    shown = "".join(
        f'<div class="tile {kind}"><dt>{title}</dt><dd><b>{value}</b><span>{more}</span></dd></div>'
        for title, value, more, kind in tiles
    )
    return f'<dl class="facts">{shown}</dl>' if tiles else ""


def curves(folder: Path, metrics: Metrics) -> str:
    """Charts, or else the picture of them that the run has left."""
    problem = missing(metrics.problem) if metrics.problem else ""
    drawn = charts(metrics)
    if drawn:
        return problem + drawn
    return problem + picture(folder / "curves.png", "loss and FID over optimizer steps")


def frames(folder: Path, with_player: bool = True) -> str:
    """Grids over time with a slider."""
    files = sorted((folder / "samples").glob("*.png"))
    if not files:
        return ""
    chosen = evenly(files) if with_player else files[-1:]
    shown = [(step_of(path), embed(path)) for path in chosen]
    problems = "".join(missing(each) for _, each in shown if isinstance(each, str))
    good = [(step, each) for step, each in shown if not isinstance(each, str)]
    if not good:
        return f'<div class="card">{problems}</div>'
    images = "".join(
        f'<figure data-step="{text(step)}"{" class=on" if index == len(good) - 1 else ""}>'
        f"{image(each, f'grid of samples at step {step}')}<figcaption>step {text(step)}</figcaption></figure>"
        for index, (step, each) in enumerate(good)
    )
    if not with_player:
        return problems + images
    words = f"{len(good)} grids of samples, always from the same noise."
    if len(files) > len(chosen):
        words = f"{len(chosen)} of {len(files)} grids, evenly chosen, at most {MAX_FRAMES}; always from the same noise."
    if any(each.is_reduced for _, each in good if not isinstance(each, str)):
        words += " They are smaller here than in their files."
    last = good[-1][0]
    controls = (
        '<div class="controls"><button type="button" aria-pressed="false">Play</button>'
        f'<input type="range" min="0" max="{len(good) - 1}" value="{len(good) - 1}" step="1" aria-label="training step" '
        f'aria-valuetext="step {text(last)}"><output>step {text(last)}</output></div>'
    )
    heading = f'<h3>Over training</h3><p class="quiet">{text(words)}</p>'
    return (
        f'<div class="player card">{heading}{controls if len(good) > 1 else ""}<div class="frames">{images}</div>{problems}</div>'
    )


def step_of(path: Path) -> str:
    """1,800 for step_0001800.png"""
    digits = re.fullmatch(r"step_(\d+)", path.stem)
    return f"{int(digits[1]):,}" if digits else path.stem


def film(folder: Path) -> str:
    """From noise to images: moving, and as a strip."""
    moving = picture(folder / "film.gif", "film of a few samples, from noise to images")
    strip = picture(folder / "film.png", "a row for each sample, from noise on the left to the image on the right")
    if not moving and not strip:
        return ""
    shown = f'<div class="moving">{moving}</div>' if moving else ""
    if strip:
        shown += f'<div class="scroll strip" tabindex="0" role="region" aria-label="film">{strip}</div>'
    words = '<p class="quiet">What becomes of noise: a row is a sample, a column a moment of sampling.</p>' if strip else ""
    return f'<div class="card film"><h3>Film</h3>{words}{shown}</div>'


def samples(folder: Path) -> str:
    """Grids over training, and the film beside them."""
    shown = frames(folder) + film(folder)
    return f'<div class="samples">{shown}</div>' if shown else ""


def _panel(folder: Path) -> str:
    panel = picture(folder / PANEL, "samples beside their nearest training images, and a histogram of distances")
    return f'<div class="scroll panel" tabindex="0" role="region" aria-label="memorisation">{panel}</div>' if panel else ""


def configuration(content: str, settings: dict[str, Any]) -> str:
    """In words, and as it is."""
    if not content:
        return ""
    words = pairs([(name, text(value)) for name, value in in_words(settings)]) if settings else missing("config.yaml is no YAML")
    return words + details("config.yaml", code(content))
