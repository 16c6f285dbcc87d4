"""Peak memory of evaluating 50,000 samples against 5,000, each in a process of its own.

    python benchmarks/evaluation_memory.py outputs/train/NAME/checkpoints/last.ckpt sampler.num_steps=1

What follows the checkpoint is handed to evaluate.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def peak(checkpoint: str, num: int, words: list[str], folder: Path) -> tuple[float, float]:
    """(MB, seconds) of one evaluation."""
    command = [sys.executable, "evaluate.py", f"checkpoint={checkpoint}", f"num={num}", f"hydra.run.dir={folder}", *words]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone
    if status != 0:
        sys.exit(f"evaluate.py ended with status {status}")
    return usage.ru_maxrss / 1024, time.perf_counter() - begin


def main() -> None:
    """Prints a line for each number of samples, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--nums", default="5000,50000", help="numbers of samples")
    arguments, words = parser.parse_known_args()
    checkpoint, peaks = str(arguments.checkpoint.resolve()), []
    for num in map(int, arguments.nums.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            megabytes, seconds = peak(checkpoint, num, words, Path(folder) / "out")
        peaks.append(megabytes)
        print(f"{num:6,} samples: {megabytes:,.0f} MB, {seconds:.0f} s", flush=True)
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
