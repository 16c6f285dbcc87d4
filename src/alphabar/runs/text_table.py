"""Tables as aligned text."""

from collections.abc import Sequence

from alphabar.errors import printable


def format_table(rows: Sequence[Sequence[object]]) -> str:
    """Returns rows of equal length as lines of aligned columns; columns of numbers are aligned on the right."""
    columns = [_padded([printable(str(cell)) for cell in column]) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _padded(column: list[str]) -> list[str]:
    width = max(map(len, column))
    is_numeric = all(_is_number(cell) for cell in column[1:])
    return [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in column]


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "") or 0)
    except ValueError:
        return False
    return True
