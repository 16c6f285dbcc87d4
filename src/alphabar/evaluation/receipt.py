"""Receipts: figures with everything that they depend on, in a JSON file that notices when it is edited."""

import hashlib
import json
import math
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric

import alphabar
from alphabar.config.former_names import current_protocol
from alphabar.errors import UserError
from alphabar.files.atomic import write_text

FORMAT = "alphabar receipt 1"
FILE_NAME = "receipt.json"
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "torch-fidelity", "transformers", "numpy", "scipy", "pillow")


class Figure(NamedTuple):
    """A figure over K seeds.

    name: describes how it was measured. metric: its kind, such as "fid". extractor: "" if none is used. values: one per seed, [K].
    floor: the same figure of held-out real images; None if there is none. statistic: the protocol's statistic that computes it.
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
    file. diagnostics: further checks of the images, "findings" in the file. run: the command, machine, time and code.
    """

    figures: tuple[Figure, ...]
    protocol: Mapping[str, Any]
    identity: Mapping[str, Any]
    diagnostics: Mapping[str, Any]
    run: Mapping[str, Any]


def provenance(fabric: Fabric, seconds: float) -> dict[str, Any]:
    """Returns the code, versions and hardware of a run that took `seconds`."""
    device = fabric.device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "code": code_revision(),
        "versions": {"alphabar": alphabar.__version__, "python": platform.python_version(), **package_versions()},
        "hardware": f"{fabric.world_size} x {device.type} ({hardware})",
        "seconds": round(seconds, 2),
    }


def package_versions() -> dict[str, str]:
    """Returns the versions of the installed packages that figures may depend on."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@cache
def code_revision() -> str | None:
    """Returns the commit of the source tree of this package, with "+changes" if files differ; None outside a repository."""
    folder = Path(alphabar.__file__).parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def write_receipt(receipt: Receipt, folder: Path) -> Path:
    """Writes `receipt.json` and returns its path."""
    content = json_content(
        {
            "format": FORMAT,
            "figures": [_figure_record(each) for each in receipt.figures],
            "protocol": receipt.protocol,
            "subject": receipt.identity,
            "findings": receipt.diagnostics,
            "run": receipt.run,
        }
    )
    path = folder / FILE_NAME
    write_text(path, json.dumps({**content, "sha256": json_sha256(content)}, indent=2) + "\n")
    return path


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
    return without_nan(json.loads(json.dumps(content, default=dataclass_record)))


def json_sha256(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the content, by which a receipt reveals accidental edits, though not forgery."""
    return hashlib.sha256(json.dumps(json_content(content), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def dataclass_record(settings: object) -> dict[str, object]:
    """Returns a dataclass, such as a sampler, as the name of its class with its settings. Raises TypeError for anything else."""
    if not is_dataclass(settings):
        raise TypeError(f"cannot write {type(settings).__name__} into a receipt")
    return {"name": type(settings).__name__, **vars(settings)}


def read_receipt(path: Path) -> Receipt:
    """Returns the receipt in a file or a folder. Raises UserError if it is not a receipt, or was edited."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path}: there is no receipt; evaluate.py leaves one in its folder as {FILE_NAME}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a receipt of evaluate.py, it is no JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file}: not a receipt of evaluate.py, need format {FORMAT!r}")
    try:
        is_edited = content.pop("sha256", None) != json_sha256(content)
        receipt = None if is_edited else _parse_receipt(content)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: not a whole receipt: {type(error).__name__}") from error
    if receipt is None:
        raise UserError(f"{file}: was edited after it was written (its SHA-256 is not that of its content): measure again")
    return receipt


def _parse_receipt(content: dict[str, Any]) -> Receipt:
    """Returns the receipt with this content; raises KeyError, TypeError, ValueError or AttributeError for any other content."""
    if isinstance(guidance := content["protocol"].get("guidance"), dict):
        guidance.pop("rule", None)  # earlier versions wrote the settings of guidance twice
    figures = tuple(_figure(record) for record in content["figures"])
    return Receipt(figures, current_protocol(content["protocol"]), content["subject"], content["findings"], content["run"])


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
