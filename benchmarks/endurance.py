"""What grows while a run goes on, and what it leaves behind: memory, file descriptors, temporary files. Linux alone.

    python benchmarks/endurance.py                                     2,000 steps of the default run
    python benchmarks/endurance.py --steps 4000 data.num_workers=2

Prints memory and open files at equal distances, and what is new in the temporary folder and in shared memory at the end. Further
words are handed to train.py.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import train  # noqa: E402

import alphabar.training.run  # noqa: E402, F401  with all that a run imports

SHARED_MEMORY = Path("/dev/shm")
PERIOD = 0.2  # seconds between two looks


def megabytes(pid: int) -> float:
    """Returns the resident memory of a process, without what it shares with files."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(words: list[str], home: Path, temporary: Path) -> None:
    """Runs train.py in this process, a fork, with its own folder for temporary files."""
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    os.chdir(home)
    sys.argv = [str(ROOT / "train.py"), *words]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        train.main()


def watch(process: BaseProcess, metrics: Path, steps: int) -> list[tuple[int, float, int]]:
    """Returns (step, megabytes, open files) of the process at ten equal distances of its steps."""
    marks = [steps * part // 10 for part in range(1, 10)]
    found: list[tuple[int, float, int]] = []
    while process.is_alive():
        step = last_step(metrics)
        if marks and step >= marks[0]:
            del marks[0]
            with suppress(FileNotFoundError):  # it ends just now
                found.append((step, megabytes(process.pid or 0), len(os.listdir(f"/proc/{process.pid}/fd"))))
        time.sleep(PERIOD)
    return found


def last_step(metrics: Path) -> int:
    """Returns the last step in metrics.csv; 0 as long as there is none."""
    rows = metrics.read_text().splitlines()[1:] if metrics.exists() else []
    return int(rows[-1].partition(",")[0]) if rows and rows[-1].partition(",")[0].isdecimal() else 0


def entries(folders: list[Path]) -> set[Path]:
    """Returns what lies in the folders that exist, without torch's cache of compiled code, which all programs of a user share."""
    found = {entry for folder in folders if folder.is_dir() for entry in folder.iterdir()}
    return {entry for entry in found if not entry.name.startswith("torchinductor_")}


def main() -> None:
    """Prints a line for each look at the run, and one for what it left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    arguments, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as home:
        (temporary := Path(home) / "tmp").mkdir()
        before, folder = entries([SHARED_MEMORY]), Path(home) / "run"
        own = [f"hydra.run.dir={folder}", f"trainer.max_steps={arguments.steps}", "logger=csv", *words]
        process = multiprocessing.get_context("fork").Process(target=run, args=(own, Path(home), temporary))
        process.start()
        found = watch(process, folder / "metrics.csv", arguments.steps)
        if process.exitcode != 0:
            sys.exit(f"train.py ended with {process.exitcode}")
        for step, memory, files in found:
            print(f"step {step:6,}: {memory:,.0f} MB, {files} open files")
        left = sorted(str(entry) for entry in entries([temporary, SHARED_MEMORY]) - before)
        print(f"left in the temporary folder and in shared memory: {', '.join(left) or 'nothing'}")


if __name__ == "__main__":
    main()
