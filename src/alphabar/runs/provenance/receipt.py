"""`receipt.json`: what a command did, with everything that its results depend on; train.py, sample.py and evaluate.py leave one.

`starts` has an entry for each start of the command in its folder, of which a run that is resumed has several. The content has a
hash, by which the file reveals accidental edits, though not forgery. `evaluation.receipt` adds figures to it.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from alphabar.errors import UserError
from alphabar.files.atomic import write_text
from alphabar.files.paths import display_path, unused_path
from alphabar.files.reading import read_bytes
from alphabar.runs.provenance.current_command import command_text
from alphabar.runs.provenance.machine import device_name, hardware, versions
from alphabar.runs.provenance.source_code import code_revision, write_changes

log = logging.getLogger(__name__)
FILE_NAME = "receipt.json"
FORMAT = "alphabar receipt 2"
FORMER_FORMAT = "alphabar receipt 1"  # of evaluate.py alone, with its only start under "run"
MAX_BYTES = 50_000_000


def describe_start(folder: Path, device: torch.device, num_devices: int, details: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry of a command that starts now, and writes the changes of its code, if there are any, into the folder.

    details: what this command depends on: its configuration or the file that has it, checkpoints, sampler, seed.
    """
    return {
        "state": "running",
        "begin": _now(),
        "command": command_text(),
        **details,
        "code": code_revision(),
        "code_changes": write_changes(folder),
        "versions": versions(),
        "hardware": f"{num_devices} x {device.type} ({device_name(device)})",
        "machine": hardware(device),
        "num_devices": num_devices,
    }


@contextmanager
def recorded(folder: Path, start: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Adds a start to the receipt in a folder, and completes it at the end: state, time, and what was added to it inside.

    It begins as "running" and ends as "finished", "stopped" (by a signal) or "failed"; one that never ended, since its process was
    killed, becomes "interrupted" at the next start. Raises WriteError, unless another error is on its way.
    """
    starts = [*_earlier_starts(folder), start]
    write_content(folder / FILE_NAME, {"starts": starts})
    begin, state = time.perf_counter(), "failed"
    try:
        yield start
        state = "finished"
    except (KeyboardInterrupt, SystemExit):
        state = "stopped"
        raise
    finally:
        complete_start(start, state, time.perf_counter() - begin)
        if state == "finished":
            write_content(folder / FILE_NAME, {"starts": starts})
        elif (folder / FILE_NAME).exists():  # and has not been taken back, with all of a folder in which nothing was done
            with suppress(OSError):  # the disk may be full, or the folder gone
                write_content(folder / FILE_NAME, {"starts": starts})


def complete_start(start: dict[str, Any], state: str, seconds: float) -> None:
    """Sets the state, the end and the duration of a start."""
    start |= {"state": state, "end": _now(), "seconds": round(seconds, 2)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _earlier_starts(folder: Path) -> list[dict[str, Any]]:
    """Returns the starts in a folder's receipt, if there is one; a receipt that cannot be read is kept under another name."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    try:
        starts = read_starts(path)
    except UserError as error:
        aside = unused_path(path.with_name(f"{path.stem}_unreadable{path.suffix}"))
        log.warning("%s; it is kept as %s, and a new one is begun", error, aside.name)
        os.replace(path, aside)
        return []
    for start in starts:
        if start.get("state") == "running":
            start["state"] = "interrupted"
    return starts


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Returns the starts in a receipt, the first one first, which is given as the file or as its folder.

    Each has `state`, `begin`, `end`, `seconds`, `command`, `code` and more; any of them may be missing in one of another version.
    Raises UserError if it is not a receipt, or was edited.
    """
    return starts_in(read_content(path), path)


def starts_in(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Returns the starts in the content of the receipt at `path`. Raises UserError if there are none."""
    starts: Any = [content.get("run")] if content["format"] == FORMER_FORMAT else content.get("starts")
    if not isinstance(starts, list) or not starts or not all(isinstance(start, dict) for start in starts):
        raise UserError(f"{display_path(path)}: not a whole receipt: it has no starts")
    return starts


def receipt_path(path: Path) -> Path:
    """Returns the path of a receipt that is given as the file or as its folder."""
    return path / FILE_NAME if path.is_dir() else path


def read_content(path: Path) -> dict[str, Any]:
    """Returns the content of a receipt without its hash. Raises UserError if it is not a receipt, or was edited."""
    file = receipt_path(path)
    if not file.is_file():
        raise UserError(f"{path}: there is no receipt; every command of ours leaves one in its folder as {FILE_NAME}")
    try:
        content = json.loads(read_bytes(file, MAX_BYTES).decode())
    except OSError as error:
        raise UserError(f"{file}: not a receipt, {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a receipt, it is no JSON") from error
    if not isinstance(content, dict) or content.get("format") not in (FORMAT, FORMER_FORMAT):
        raise UserError(f"{file}: not a receipt, need format {FORMAT!r}")
    try:
        is_edited = content.pop("sha256", None) != json_sha256(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a whole receipt: {type(error).__name__}") from error
    if is_edited:
        raise UserError(f"{file}: was edited after it was written (its SHA-256 is not that of its content)")
    return content


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a receipt with its format and its hash."""
    plain = json_content({"format": FORMAT, **content})
    write_text(path, json.dumps({**plain, "sha256": json_sha256(plain)}, indent=2) + "\n")


def without_nan(content: Any) -> Any:
    """Returns the value with None for NaN and "inf" for infinity, neither of which JSON has."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    if isinstance(content, float) and math.isinf(content):
        return str(content)
    return None if isinstance(content, float) and math.isnan(content) else content


def json_content(content: Any) -> Any:
    """Returns the value as it would be read back from a JSON file."""
    return without_nan(json.loads(json.dumps(content, default=settings_record)))


def json_sha256(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the content."""
    return hashlib.sha256(json.dumps(json_content(content), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def settings_record(settings: object) -> dict[str, object]:
    """Returns an object of settings, such as a sampler or a statistic, as the name of its class with its public attributes.

    Raises TypeError for an object without attributes.
    """
    public = {key: value for key, value in vars(settings).items() if not key.startswith("_")}
    return {"name": type(settings).__name__, **public}
