"""`evaluate.py compare` prints receipts side by side if their figures were measured in the same way."""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from alphabar.errors import UserError
from alphabar.evaluation.receipt import Receipt, differences, flat, read
from alphabar.evaluation.table import TITLES, spread
from alphabar.runs.text_table import aligned

MAX_SHOWN = 60  # the maximal length of a value in the table


def main(words: Sequence[str]) -> None:
    """Prints the table. Raises UserError for bad receipts, and for protocols that differ in keys that are not allowed to."""
    parser = ArgumentParser("evaluate.py compare", description="Puts receipts side by side, if they were measured alike.")
    parser.add_argument("receipts", nargs="+", type=Path, help="receipt.json, or the folder that it is in")
    parser.add_argument(
        "--allow", default="", help="what may differ, and is then a column: weights,sampler,... or all", metavar="KEY,KEY"
    )
    parser.error = complain  # type: ignore[method-assign]
    args = parser.parse_args(words)
    if len(args.receipts) < 2:
        raise UserError("compare: need two receipts or more")
    print(table(args.receipts, [read(path) for path in args.receipts], [key for key in args.allow.split(",") if key]))


def complain(message: str) -> NoReturn:
    raise UserError(f"compare: {message}")


def table(paths: Sequence[Path], receipts: Sequence[Receipt], allowed: Sequence[str]) -> str:
    """Returns a table with a row for each receipt and a column for each figure that all of them have.

    allowed: keys of protocols, or what they begin with, that may differ; "all" for all. Raises UserError for others.
    """
    common = [key for key in figures(receipts[0]) if all(key in figures(other) for other in receipts[1:])]
    if not common:
        raise UserError("compare: these receipts have no figure in common")
    origins = [(*key, figures(receipts[0])[key].statistic) for key in common]
    unlike = differences([relevant(receipt.protocol, origins) for receipt in receipts])
    refused = {key: values for key, values in unlike.items() if not is_allowed(key, allowed)}
    if refused:
        raise UserError(refusal(paths, refused))
    head = ["receipt", *unlike, *(title(key) for key in common)]
    rows = [
        [path.parent.name if path.name == "receipt.json" else path.name, *(short(values[index]) for values in unlike.values())]
        + [spread(figures(receipt)[key]) for key in common]
        for index, (path, receipt) in enumerate(zip(paths, receipts, strict=True))
    ]
    note = f"\nnot measured alike: {', '.join(unlike)} differ" if unlike else ""
    return aligned([head, *rows]) + note


def relevant(protocol: Mapping[str, Any], origins: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Returns the protocol without the entries that none of these figures depends on.

    origins: what each figure is, its extractor and its statistic.
    """
    kept = {key: value for key, value in protocol.items() if key != "floor"}
    for part, place in (("extractors", 1), ("statistics", 2)):
        if part in kept:
            kept[part] = {name: value for name, value in kept[part].items() if any(one[place] == name for one in origins)}
    return kept


def is_allowed(key: str, allowed: Sequence[str]) -> bool:
    """Returns whether the dotted key, or a key that contains it, is among the allowed ones."""
    return any(word == "all" or key == word or key.startswith(f"{word}.") for word in allowed)


def refusal(paths: Sequence[Path], unlike: Mapping[str, Sequence[Any]]) -> str:
    """Returns the message that gives the first difference in full and the others by name."""
    key, values = next(iter(unlike.items()))
    other = next(index for index, value in enumerate(values) if value != values[0])
    words = ",".join(dict.fromkeys(name.split(".")[0] for name in unlike))
    more = f" (and {', '.join(list(unlike)[1:])})" if len(unlike) > 1 else ""
    return (
        f"compare: not measured alike: {key} is {short(values[0])} in {paths[0]} and "
        f"{short(values[other])} in {paths[other]}{more}; "
        f"--allow={words} compares all the same"
    )


def figures(receipt: Receipt) -> dict[tuple[str, str], Any]:
    """Returns the figures by kind and extractor, without those of noise."""
    return {(each.what, each.extractor): each for each in receipt.figures if not each.name.endswith("-noise")}


def title(key: tuple[str, str]) -> str:
    """Returns the title of a column, such as `FID classifier`."""
    return " ".join(part for part in (TITLES.get(key[0], key[0]), key[1]) if part)


def short(value: Any) -> str:
    """Returns a value as the text of one cell."""
    text = " ".join(f"{name}={item}" for name, item in flat(value).items()) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
