"""What waits for a GPU, in parts that go on where they were cut off; benchmarks/gpu.sh runs all of them.

    python benchmarks/gpu.py samples training          these parts
    python benchmarks/gpu.py                           the summary of what is there

A part writes its values one by one to PART.partial.json in the folder --out, and PART.json is there when it is complete. The
summary prints the tables of all, and ends with 1 if a part is not complete, or a value not as it must be.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring.gpu_parts import PARTS
from measuring.gpu_sizes import FULL, SMOKE, Size
from measuring.timing import used_device

from alphabar.cli.console import configure_logging
from alphabar.files.atomic import write_text
from alphabar.runs.provenance.machine import hardware, versions


class Results:
    """The values of a part, and the machine that they are from; those of another machine, size or version are measured anew."""

    def __init__(self, folder: Path, part: str, is_smoke: bool) -> None:
        self.complete, self.partial = folder / f"{part}.json", folder / f"{part}.partial.json"
        self.machine = {**hardware(used_device()), "smoke": is_smoke, "versions": versions()}
        found = read(self.partial)
        self.values: dict[str, Any] = found["values"] if found.get("machine") == self.machine else {}

    @property
    def is_complete(self) -> bool:
        """Returns whether all values of this machine are there."""
        return read(self.complete).get("machine") == self.machine

    def measure(self, key: str, function: Callable[[], Any]) -> Any:
        """Returns the value of a key, for which the function is called unless it is there already."""
        if key not in self.values:
            print(f"  {key} ...", flush=True)
            self.values[key] = function()
            write_text(self.partial, json.dumps({"machine": self.machine, "values": self.values}, indent=1) + "\n")
        return self.values[key]


def read(path: Path) -> dict[str, Any]:
    """Returns what is in a file of results, nothing if there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def run(name: str, size: Size, folder: Path) -> None:
    """Runs a part, and prints its table."""
    results = Results(folder, name, size is SMOKE)
    if results.is_complete:
        print("  is there", flush=True)
    else:
        if results.complete.exists():
            print(f"  {results.complete.name} is of another machine, size or version, and is replaced", flush=True)
        home = folder / f"{name}.work"
        shutil.rmtree(home, ignore_errors=True)  # of one that was cut off
        home.mkdir()
        PARTS[name].run(size, home, results.measure)
        shutil.rmtree(home)
        results.partial.replace(results.complete)
        print(PARTS[name].as_text(results.values), flush=True)


def summary(folder: Path) -> list[str]:
    """Prints all tables, and returns a line for each part that is not complete and each value that is not as it must be."""
    faults = []
    for name, part in PARTS.items():
        complete = read(folder / f"{name}.json")
        found = complete or read(folder / f"{name}.partial.json")
        if found:
            about = found["machine"]
            note = ", a smoke size, which measures nothing" if about["smoke"] else ""
            print(f"== {name}, {about.get('gpu', about['processor'])}{note}\n{part.as_text(found['values'])}\n")
            faults += part.faults(found["values"])
        faults += [] if complete else [f"{name}: not complete"]
    return faults


def main() -> None:
    """Runs the parts, or prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: the summary")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), metavar="FOLDER")
    parser.add_argument("--smoke", action="store_true", help="as code, at a size that measures nothing")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"{unknown[0]}: need one of {', '.join(PARTS)}")
    configure_logging()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        run(name, SMOKE if options.smoke else FULL, options.out.absolute())
    if not options.parts and (faults := summary(options.out)):
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
