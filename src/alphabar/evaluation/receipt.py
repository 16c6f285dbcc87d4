"""Receipts of evaluations: figures, beside what `runs.receipt` records of every command."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alphabar.config.former_names import current_protocol
from alphabar.errors import UserError
from alphabar.runs.floor import BIASED
from alphabar.runs.provenance.current_command import command_config
from alphabar.runs.provenance.receipt import (
    FILE_NAME,
    complete_start,
    describe_start,
    read_content,
    receipt_path,
    starts_in,
    write_content,
)

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Figure(NamedTuple):
    """A figure over K seeds.

    name: describes how it was measured. metric: its kind, such as "fid". extractor: "" if none is used. values: one per seed, [K].
    floor: the same figure of held-out real images, of as many where it depends on their number; None if there is none.
    statistic: the protocol's statistic that computes it.
    """

    name: str
    metric: str
    extractor: str
    values: tuple[float, ...]
    floor: float | None = None
    statistic: str = ""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds, with K - 1; None for one seed."""
        if len(self.values) < 2:
            return None
        return (sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1)) ** 0.5


class Receipt(NamedTuple):
    """Figures with everything that they depend on.

    protocol: the settings that must be equal for figures to be compared. identity: which images were evaluated, "subject" in the
    file. diagnostics: further checks of the images, "findings" in the file. run: the start, see `read_starts`.
    """

    figures: tuple[Figure, ...]
    protocol: Mapping[str, Any]
    identity: Mapping[str, Any]
    diagnostics: Mapping[str, Any]
    run: Mapping[str, Any]


def describe_evaluation(fabric: "Fabric", folder: Path, seconds: float, details: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry of an evaluation that ends now, after `seconds`; see `describe_start`."""
    start = describe_start(folder, fabric.device, fabric.world_size, {"config": command_config(), **details})
    complete_start(start, "finished", seconds)
    return start


def write_receipt(receipt: Receipt, folder: Path) -> Path:
    """Writes `receipt.json` and returns its path."""
    path = folder / FILE_NAME
    write_content(
        path,
        {
            "starts": [receipt.run],
            "figures": [_figure_record(each) for each in receipt.figures],
            "protocol": receipt.protocol,
            "subject": receipt.identity,
            "findings": receipt.diagnostics,
        },
    )
    return path


def has_figures(path: Path) -> bool:
    """Returns whether a receipt is one of evaluate.py, which has figures, or cannot be read."""
    try:
        return "figures" in read_content(path)
    except UserError:
        return True


def read_receipt(path: Path) -> Receipt:
    """Returns the receipt of an evaluation in a file or a folder. Raises UserError if it is not one, or was edited."""
    file, content = receipt_path(path), read_content(path)
    if "figures" not in content:
        raise UserError(f"{file}: not a receipt of evaluate.py, it has no figures")
    run = starts_in(content, file)[-1]
    try:
        return _parse_receipt(content, run)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: not a whole receipt: {type(error).__name__}") from error


def _parse_receipt(content: dict[str, Any], run: Mapping[str, Any]) -> Receipt:
    """Returns the receipt with this content; raises KeyError, TypeError, ValueError or AttributeError for any other content."""
    if isinstance(guidance := content["protocol"].get("guidance"), dict):
        guidance.pop("rule", None)  # earlier versions wrote the settings of guidance twice
    figures = tuple(_figure(record) for record in content["figures"])
    protocol = current_protocol(content["protocol"])
    if (floor := protocol.get("floor")) is not None and floor["num"] != protocol["num"]:
        figures = tuple(map(_without_unequal_floor, figures))  # earlier versions compared them all the same
    return Receipt(figures, protocol, content["subject"], content["findings"], run)


def _without_unequal_floor(figure: Figure) -> Figure:
    """Returns the figure without a floor of another number of images, if it depends on that number."""
    return figure._replace(floor=None) if figure.metric in BIASED else figure


def _figure_record(figure: Figure) -> dict[str, Any]:
    """Returns the figure as the file holds it, which calls the metric "what"."""
    record = figure._asdict()
    return {"name": record.pop("name"), "what": record.pop("metric"), **record, "mean": figure.mean, "std": figure.std}


def _figure(record: Mapping[str, Any]) -> Figure:
    values = tuple(math.nan if value is None else float(value) for value in record["values"])
    return Figure(record["name"], record["what"], record["extractor"], values, record["floor"], record["statistic"])


def flatten_mapping(content: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one mapping with dotted keys."""
    if not isinstance(content, Mapping):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten_mapping(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differences(protocols: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns the dotted keys whose values differ between the protocols, with the value in each protocol."""
    tables = [flatten_mapping(protocol) for protocol in protocols]
    keys = dict.fromkeys(key for table in tables for key in table)
    values = {key: [table.get(key) for table in tables] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}
