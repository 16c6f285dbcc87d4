"""Tables of captions: `metadata.jsonl`, `metadata.csv` and `metadata.parquet`, as Hugging Face's imagefolder reads them."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alphabar.errors import UserError
from alphabar.files.reading import read_bytes

FILE_NAME = "file_name"
MOST_UNPACKED, UNPACKED_PER_BYTE = 2**24, 100  # bytes in a Parquet file: so many, or so many for each of its own
BATCH = 2**16  # rows of a Parquet file that are read at once


class Row(NamedTuple):
    """A row of a table, by the name of its column each value; `number` is that of the line in its file, counted from 1."""

    number: int
    values: Mapping[str, Any]


class TableFormat(NamedTuple):
    """The format of a table. rows: yields the rows of a file, given the column of the captions; they are counted in `unit`s."""

    unit: str
    rows: Callable[[Path, str], Iterator[Row]]


class Parquet(NamedTuple):
    """The content of a Parquet file, with the names of its columns and of those that are used."""

    content: bytes
    columns: list[str]
    used: list[str]


def _table_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _json_rows(path: Path, key: str) -> Iterator[Row]:
    for number, line in enumerate(_table_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({_one_line(error)})") from error
        if not isinstance(values, dict) or not isinstance(values.get(FILE_NAME), str):
            keys = isinstance(values, dict) and FILE_NAME not in values and _listed(list(values))
            got = f"the keys {keys}" if keys else line.decode().strip()[:60]
            raise UserError(f'{path}, line {number}: need {{"{FILE_NAME}": "...", "{key}": "..."}}, got {got}')
        yield Row(number, values)


def _csv_rows(path: Path, key: str) -> Iterator[Row]:
    try:
        text = _table_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not in UTF-8 ({_one_line(error)})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, [])
        _must_have_names(path, columns, key)
        start = reader.line_num + 1
        for fields in reader:
            if len(fields) not in (0, len(columns)):
                raise UserError(
                    f'{path}, line {start}: {len(fields)} values in {len(columns)} columns; a text with commas stands in "quotes"'
                )
            if fields:
                yield Row(start, dict(zip(columns, fields, strict=True)))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({_one_line(error)})") from error


def _parquet_rows(path: Path, key: str) -> Iterator[Row]:
    content, columns, used = _open_parquet(path, key)
    rest = dict.fromkeys(columns)
    kept: dict[str, str] = {}
    number = 0
    try:
        for batch in _parquet_file(content, used).iter_batches(BATCH, columns=used, use_threads=False):
            for values in zip(*(_texts(column, kept) for column in batch.columns), strict=True):
                number += 1
                yield Row(number, rest | dict(zip(batch.schema.names, values, strict=True)))
    except Exception as error:  # any kind: a file may contain any bytes
        raise UserError(f"{path}: damaged after row {number} ({_one_line(error)})") from error


def _open_parquet(path: Path, key: str) -> Parquet:
    """Returns a Parquet file whose texts can be read. Raises UserError if its texts are none, or too many."""
    content = _table_bytes(path)
    try:
        import pyarrow  # noqa: F401, only whether it is there
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow: pip install 'alphabar[huggingface]'") from error
    try:
        file = _parquet_file(content)
        names, kinds = file.schema_arrow.names, file.schema_arrow.types
        # Of single columns pyarrow cannot say it safely: it ends the process where their metadata are damaged.
        unpacked = sum(file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups))
    except Exception as error:  # any kind: a file may contain any bytes
        raise UserError(f"{path}: not a Parquet file ({_one_line(error)})") from error
    _must_have_names(path, names, key)
    used = list(dict.fromkeys(name for name in (FILE_NAME, key) if name in names))
    for name, kind in zip(names, kinds, strict=True):
        if name in used and not _is_text(kind):
            raise UserError(f"{path}: need a column of texts {name!r}, got {kind}")
    if unpacked > max(MOST_UNPACKED, UNPACKED_PER_BYTE * len(content)):
        raise UserError(f"{path}: promises {unpacked:,} bytes, too many for a file of {len(content):,} bytes")
    return Parquet(content, names, used)


def _parquet_file(content: bytes, used: Sequence[str] | None = None) -> Any:
    """Returns the ParquetFile of a file's content; equal values of the columns `used` are kept once."""
    from pyarrow import BufferReader, parquet

    return parquet.ParquetFile(BufferReader(content), read_dictionary=used, arrow_extensions_enabled=False)


def _texts(column: Any, kept: dict[str, str]) -> list[str | None]:
    """Returns the values of a column of a Parquet file, of which equal ones, in `kept` too, take memory but once."""
    words = [kept.setdefault(word, word) for word in column.dictionary.to_pylist()]
    return [None if index is None else words[index] for index in column.indices.to_pylist()]


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(value) or types.is_large_string(value)


def _must_have_names(path: Path, columns: Sequence[str], key: str) -> None:
    """Raises UserError unless there is one column with the names of the images, and not two of one name."""
    if FILE_NAME not in columns:
        raise UserError(f"{path}: need the columns {FILE_NAME!r} and {key!r}, got {_listed(columns) or 'none'}")
    if twice := [name for name in (FILE_NAME, key) if columns.count(name) > 1]:
        raise UserError(f"{path}: two of its columns are called {twice[0]!r}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names[:8])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


TABLES = {
    "metadata.jsonl": TableFormat("line", _json_rows),
    "metadata.csv": TableFormat("line", _csv_rows),
    "metadata.parquet": TableFormat("row", _parquet_rows),
}
