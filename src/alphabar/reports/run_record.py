"""The record of a run's starts, its `receipt.json`, as far as the page of the run shows it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alphabar.errors import UserError
from alphabar.progress import counted, format_duration
from alphabar.runs.provenance.receipt import FILE_NAME, read_starts
from alphabar.runs.sweeps.sweep import finite_number

VERSIONS = ("alphabar", "python", "torch", "lightning")


class RunRecord(NamedTuple):
    """The starts of a run, the first one first; none if there is no receipt. problem: why it cannot be read, or ""."""

    starts: Sequence[Mapping[str, Any]] = ()
    problem: str = ""

    @property
    def last(self) -> Mapping[str, Any]:
        """The newest start, empty if there is none."""
        return self.starts[-1] if self.starts else {}

    @property
    def composition(self) -> Mapping[str, Any]:
        """The lines with which the newest start that tells began, by subject, such as "data" and "network"."""
        lines = [start["composition"] for start in self.starts if isinstance(start.get("composition"), dict)]
        return lines[-1] if lines else {}

    def total(self, key: str) -> float | None:
        """Returns the sum of a number over all starts, or None if any does not have it, as one that was killed."""
        values = [finite_number(start.get(key)) for start in self.starts]
        known = [value for value in values if value is not None]
        return sum(known) if known and len(known) == len(values) else None

    def epochs(self, num_seen: float | None) -> float | None:
        """Returns how often the run has gone through its training images, of which it has seen `num_seen`."""
        num = next((start["num_images"] for start in reversed(self.starts) if finite_number(start.get("num_images"))), None)
        return None if num is None or num_seen is None else num_seen / num


def read_run_record(folder: Path) -> RunRecord:
    """Reads the receipt in the folder of a run. Never raises for one that is damaged or missing."""
    if not (folder / FILE_NAME).is_file():
        return RunRecord()
    try:
        return RunRecord(read_starts(folder))
    except (UserError, OSError) as error:
        return RunRecord(problem=str(error))


def record_rows(record: RunRecord) -> list[tuple[str, str]]:
    """Returns pairs of a subject and what the receipt says about it; none without a receipt."""
    last, starts = record.last, record.starts
    rows = [
        ("command", _text(last.get("command"))),
        ("code", _text(last.get("code")) + (f", changes in {_text(last['code_changes'])}" if last.get("code_changes") else "")),
        *((subject, _text(line)) for subject, line in record.composition.items()),
        ("hardware", describe_hardware(last)),
        ("versions", ", ".join(f"{name} {_text(version)}" for name, version in known_versions(last).items())),
        ("time", describe_time_spent(record)),
    ]
    if len(starts) > 1:
        rows.append(("starts", "; ".join(f"{_text(start.get('begin'))}: {describe_start_end(start)}" for start in starts)))
    return [(subject, text) for subject, text in rows if text]


def known_versions(start: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the versions that a reader asks for first."""
    versions = start.get("versions")
    return {name: versions[name] for name in VERSIONS if name in versions} if isinstance(versions, dict) else {}


def describe_hardware(start: Mapping[str, Any]) -> str:
    """Returns the devices with the cores and the memory of the machine."""
    machine = start.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    cores, memory = finite_number(machine.get("cores")), finite_number(machine.get("memory"))
    parts = [_text(start.get("hardware"))]
    parts += [] if cores is None else [counted(int(cores), "core")]
    parts += [] if memory is None else [f"{memory:g} GiB of memory"]
    return ", ".join(filter(None, parts))


def describe_time_spent(record: RunRecord) -> str:
    """Returns when the run began, how long it took, and what share of that evaluations took: samples, figures and the film."""
    seconds, evaluating = record.total("seconds"), record.total("evaluation_seconds")
    parts = [f"begun {_text(record.starts[0].get('begin'))}"] if record.starts and record.starts[0].get("begin") else []
    parts += [] if seconds is None else [f"{format_duration(seconds)} in all"]
    if seconds and evaluating is not None:
        parts.append(f"{evaluating / seconds:.0%} of it for samples and figures ({format_duration(evaluating)})")
    return ", ".join(parts)


def describe_start_end(start: Mapping[str, Any]) -> str:
    """Returns how a start ended, such as "stopped at step 900"."""
    step = finite_number(start.get("step"))
    return _text(start.get("state")) + ("" if step is None else f" at step {int(step):,}")


def _text(value: object) -> str:
    return "" if value is None else str(value)
