"""Comparison of receipts; `evaluate.py compare` puts them side by side if their figures were measured in the same way."""

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from alphabar.errors import UserError
from alphabar.evaluation.receipt import Figure, Receipt, differences, flatten_mapping, read_receipt
from alphabar.evaluation.table import floor_words, format_mean, metric_title
from alphabar.runs.provenance.current_command import with_invocations
from alphabar.runs.provenance.receipt import FILE_NAME
from alphabar.runs.text_table import format_table

MAX_LENGTH = 60  # characters of a value in the table


def compare_command(arguments: Sequence[str]) -> str:
    """Returns the table. Raises UserError for bad receipts, and for protocols that differ in keys that are not allowed to."""
    parser = ArgumentParser(
        with_invocations("evaluate.py compare"), description="Puts receipts side by side, if they were measured alike."
    )
    parser.add_argument("receipts", nargs="+", type=Path, help="receipt.json, or the folder that it is in")
    parser.add_argument(
        "--allow", default="", help="what may differ, and is then a column: weights,sampler,... or all", metavar="KEY,KEY"
    )
    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_args(arguments)
    if len(args.receipts) < 2:
        refuse("need two receipts or more")
    return comparison_table(
        args.receipts, [read_receipt(path) for path in args.receipts], [key for key in args.allow.split(",") if key]
    )


def refuse(message: str) -> NoReturn:
    """Raises UserError with the message."""
    raise UserError(f"compare: {message}")


class Comparison(NamedTuple):
    """Several receipts side by side: the figures that all of them have, in the order of the first, without those of noise.

    figures: for each such figure its value in each receipt. unlike: the dotted keys in which the protocols of these figures differ,
    with the value in each receipt.
    """

    figures: list[list[Figure]]
    unlike: dict[str, list[Any]]

    def titles(self) -> list[str]:
        """Returns the title of a column for each key that differs, and for each figure, such as `FID classifier`."""
        names = [(metric_title(each), each.extractor) for each, *_ in self.figures]
        return [*self.unlike, *(" ".join(part for part in name if part) for name in names)]

    def rows(self, format_figure: Callable[[Figure], str]) -> list[list[str]]:
        """Returns the cells of these columns for each receipt."""
        columns = [
            *([format_value(value) for value in values] for values in self.unlike.values()),
            *([format_figure(figure) for figure in figures] for figures in self.figures),
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def refused(self, allowed: Sequence[str]) -> dict[str, list[Any]]:
        """Returns the differences in keys that are neither allowed nor below an allowed one; "all" allows all."""

        def is_allowed(key: str) -> bool:
            return any(each == "all" or key == each or key.startswith(f"{each}.") for each in allowed)

        return {key: values for key, values in self.unlike.items() if not is_allowed(key)}


def compare_receipts(receipts: Sequence[Receipt]) -> Comparison:
    """Returns the figures that all receipts have, and the differences between their protocols."""
    tables = [
        {(metric_title(each), each.extractor): each for each in receipt.figures if not each.name.endswith("-noise")}
        for receipt in receipts
    ]
    common = [key for key in tables[0] if all(key in table for table in tables)]
    figures = [[table[key] for table in tables] for key in common]
    firsts = [each for each, *_ in figures]
    return Comparison(figures, differences([relevant_protocol(receipt.protocol, firsts) for receipt in receipts]))


def relevant_protocol(protocol: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """Returns the protocol without the entries that none of the figures depends on."""
    used = {"extractors": {each.extractor for each in figures}, "statistics": {each.statistic for each in figures}}
    relevant = {key: value for key, value in protocol.items() if key != "floor"}
    for part in used.keys() & relevant.keys():
        relevant[part] = {name: value for name, value in relevant[part].items() if name in used[part]}
    return relevant


def comparison_table(paths: Sequence[Path], receipts: Sequence[Receipt], allowed: Sequence[str]) -> str:
    """Returns a table with a row for each receipt and a column for each figure that all of them have.

    allowed: keys of protocols, or what they begin with, that may differ; "all" for all. Raises UserError for others.
    """
    comparison = compare_receipts(receipts)
    if not comparison.figures:
        refuse("these receipts have no figure in common")
    if refused := comparison.refused(allowed):
        refuse(describe_differences(paths, refused))
    names = [path.parent.name if path.name == FILE_NAME else path.name for path in paths]
    rows = [[name, *row] for name, row in zip(names, comparison.rows(format_against_floor), strict=True)]
    note = f"\nnot measured alike: {', '.join(comparison.unlike)} differ" if comparison.unlike else ""
    return format_table([["receipt", *comparison.titles()], *rows]) + note


def format_against_floor(figure: Figure) -> str:
    """Returns the cell of a figure: its mean over seeds and, where it has a floor, what it is against it."""
    words = floor_words(figure)
    return format_mean(figure, "+-") + (f" ({words})" if words else "")


def describe_differences(paths: Sequence[Path], unlike: Mapping[str, Sequence[Any]]) -> str:
    """Returns the message that gives the first difference in full and the others by name."""
    key, values = next(iter(unlike.items()))
    other = next(index for index, value in enumerate(values) if value != values[0])
    keys = ",".join(dict.fromkeys(name.split(".")[0] for name in unlike))
    more = f" (and {', '.join(list(unlike)[1:])})" if len(unlike) > 1 else ""
    return (
        f"not measured alike: {key} is {format_value(values[0])} in {paths[0]} and {format_value(values[other])} in {paths[other]}"
        f"{more}; --allow={keys} compares all the same"
    )


def format_value(value: Any) -> str:
    """Returns a value of a protocol as the text of one cell."""
    is_nested = isinstance(value, Mapping)
    text = " ".join(f"{name}={item}" for name, item in flatten_mapping(value).items()) if is_nested else str(value)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."
