"""The table of a receipt for the terminal."""

from alphabar.evaluation.receipt import Figure, Receipt
from alphabar.runs.text_table import aligned

TITLES = {
    "fid": "FID",
    "fid_infinity": "FID, many images",
    "kid": "KID",
    "inception_score": "Inception Score",
    "cmmd": "CMMD",
}


def shown_figures(receipt: Receipt) -> str:
    """Returns the table of the evaluated images and the reference, a row for each figure, and the diagnostics."""
    protocol, run = receipt.protocol, receipt.run
    reference, floor = protocol["reference"], protocol.get("floor")
    lines = [f"{protocol['num']:,} images against {reference['num']:,} training images" + _seeds(protocol["seeds"])]
    rows: list[list[str]] = [["figure", "features", "", f"floor, {floor['num']:,} held-out" if floor else "no floor", "name"]]
    for figure in receipt.figures:
        if not figure.what.endswith("_std"):
            rows.append(
                [TITLES.get(figure.what, figure.what), figure.extractor, spread(figure), _number(figure.floor), figure.name]
            )
    lines.append(aligned(rows))
    if "network_evaluations" in run:
        lines.append(f"{run['network_evaluations']:g} network evaluations and {run['seconds_per_image']:.3g} s an image")
    lines += [f"! {line}" for line in receipt.findings.get("complaints", [])]
    return "\n".join(lines)


def spread(figure: Figure) -> str:
    """Returns the mean over seeds and, for several seeds, the standard deviation."""
    return _number(figure.mean) + ("" if figure.std is None else f" +- {figure.std:.2g}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _seeds(seeds: list[int]) -> str:
    return f", seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
