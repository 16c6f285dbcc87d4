"""Receipts as text: the table of one for the terminal, and the pieces that other tables of receipts share."""

from collections.abc import Mapping
from typing import Any

from alphabar.evaluation.receipt import Figure, Receipt
from alphabar.runs.text_table import format_table

METRIC_TITLES = {
    "fid": "FID",
    "fid_infinity": "FID, many images",
    "kid": "KID",
    "cmmd": "CMMD",
}


def metric_title(figure: Figure) -> str:
    """Returns the title of a figure's metric; that of an Inception Score says so only where the features are Inception's."""
    if figure.metric == "inception_score":
        return "Inception Score" if figure.extractor.startswith("inception") else "classifier score"
    return METRIC_TITLES.get(figure.metric, figure.metric)


def format_receipt(receipt: Receipt) -> str:
    """Returns the table of the evaluated images and the reference, a row for each figure, and the diagnostics."""
    protocol = receipt.protocol
    reference, floor, seeds = protocol["reference"], protocol.get("floor"), protocol["seeds"]
    over_seeds = f", seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    rows: list[list[str]] = [["figure", "features", "", f"floor, {floor['num']:,} held-out" if floor else "no floor", "name"]]
    for each in without_deviations(receipt):
        floor_value = "" if each.floor is None else format_number(each.floor)
        rows.append([metric_title(each), each.extractor, format_mean(each, "+-"), floor_value, each.name])
    lines = [f"{protocol['num']:,} images against {reference['num']:,} training images{over_seeds}", format_table(rows)]
    lines += [cost] if (cost := format_cost(receipt.run)) else []
    return "\n".join([*lines, *(f"! {line}" for line in receipt.diagnostics.get("complaints", []))])


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
