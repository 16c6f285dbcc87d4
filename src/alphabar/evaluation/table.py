"""Receipts as text: the table of one for the terminal, and the pieces that other tables of receipts share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alphabar.evaluation.receipt import Figure, Receipt
from alphabar.runs.floor import MEAN_FID, against_floor, num_in_name
from alphabar.runs.text_table import format_table

METRIC_TITLES = {
    "fid": "FID",
    "fid_infinity": "FID, many images",
    "kid": "KID",
    "cmmd": "CMMD",
}
DISTANCES = (*METRIC_TITLES, MEAN_FID)  # from the training images, which held-out images have too


def metric_title(figure: Figure) -> str:
    """Returns the title of a figure's metric; that of an Inception Score says so only where the features are Inception's.

    A mean FID over sets has the number of images in a set in its title.
    """
    if figure.metric == MEAN_FID:
        return f"FID, sets of {num_in_name(figure.name):,}"
    if figure.metric == "inception_score":
        return "Inception Score" if figure.extractor.startswith("inception") else "classifier score"
    return METRIC_TITLES.get(figure.metric, figure.metric)


def format_receipt(receipt: Receipt) -> str:
    """Returns the table of the evaluated images and the reference, a row for each figure, and the diagnostics."""
    protocol = receipt.protocol
    reference, floor, seeds = protocol["reference"], protocol.get("floor"), protocol["seeds"]
    over_seeds = f", seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    figures = without_deviations(receipt)
    rows: list[list[str]] = [["figure", "features", "", f"floor, {floor['num']:,} held-out" if floor else "no floor", "", "name"]]
    for each in figures:
        floor_value = "" if each.floor is None else format_number(each.floor)
        rows.append([metric_title(each), each.extractor, format_mean(each, "+-"), floor_value, floor_words(each), each.name])
    if not any(row[4] for row in rows):
        rows = [[*row[:4], row[5]] for row in rows]
    lines = [f"{protocol['num']:,} images against {reference['num']:,} training images{over_seeds}", format_table(rows)]
    lines += floor_notes(figures)
    lines += [cost] if (cost := format_cost(receipt.run)) else []
    return "\n".join([*lines, *(f"! {line}" for line in receipt.diagnostics.get("complaints", []))])


def floor_words(figure: Figure) -> str:
    """Returns a distance against its floor, as "1.39 x the floor"; "" for figures of other kinds, and for noise.

    FID alone is given as a multiple: it is biased by the number of images, and so is its floor, which is of as many. The others
    estimate a distance that for held-out images is about zero, so that a multiple of it says nothing; they are above or below.
    """
    if figure.floor is None or figure.metric not in DISTANCES or figure.name.endswith("-noise"):
        return ""
    if figure.metric in ("fid", MEAN_FID):
        return against_floor(figure.mean, figure.floor)
    return "below the floor" if figure.mean < figure.floor else "above the floor"


def floor_notes(figures: Sequence[Figure]) -> list[str]:
    """Returns lines that say why distances are below a floor, where some are: their own, or for the limit of FID that of FID.

    Another line says what a mean FID over sets is, where there is one.
    """
    notes = []
    if means := [metric_title(each) for each in figures if each.metric == MEAN_FID]:
        notes.append(
            f"{means[0]}: the mean over sets of as many images as the floor is of, which compares with it; FID is higher the fewer "
            "images it is of"
        )
    if below := [metric_title(each) for each in figures if floor_words(each) == "below the floor"]:
        notes.append(
            f"{', '.join(dict.fromkeys(below))} below the floor: both are estimates of a distance near zero, "
            "and miss it to either side; no sign that samples are better than real images"
        )
    floors = {each.extractor: each.floor for each in figures if each.metric == "fid" and each.floor is not None}
    limits = [each for each in figures if each.metric == "fid_infinity" and each.floor is None]
    if any(each.mean < floors.get(each.extractor, -math.inf) for each in limits):
        notes.append(
            f"{METRIC_TITLES['fid_infinity']} below the floor of FID: it lacks the bias of so few images, which that floor has; "
            "it has no floor of its own"
        )
    return notes


def without_deviations(receipt: Receipt) -> list[Figure]:
    """Returns the figures without those that are the deviation of another, such as `kid_std`."""
    return [figure for figure in receipt.figures if not figure.metric.endswith("_std")]


def format_mean(figure: Figure, sign: str) -> str:
    """Returns the mean over seeds and, for several seeds, the standard deviation after the sign."""
    return format_number(figure.mean) + ("" if figure.std is None else f" {sign} {figure.std:.2g}")


def format_number(value: float) -> str:
    """Returns the number with four significant digits."""
    return f"{value:.4g}"


def format_cost(run: Mapping[str, Any]) -> str:
    """Returns the cost of an image; "" for images that were not sampled."""
    if "network_evaluations" not in run:
        return ""
    return f"{run['network_evaluations']:g} network evaluations and {run['seconds_per_image']:.3g} s an image"
