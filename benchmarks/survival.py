"""What is lost when a run is killed again and again: nothing, or this script ends with an error. Linux alone.

    python benchmarks/survival.py                            100 kills of a run, and 20 of one of its two processes
    python benchmarks/survival.py --kills 2 --rank-kills 0

A small run is trained without interruption, then others by the same command with resume=auto, each of them killed (SIGKILL) at
random moments until it ends. One kill in four waits for a checkpoint that is being written. Weights, averages, optimizer and
figures of every run have to be those of the first, to the bit (figures of two processes to 1e-5). Of two processes one is killed,
in start-up too; the other has to end by itself.
"""

import argparse
import ctypes
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import train  # noqa: E402

import alphabar.training.run  # noqa: E402, F401  with all that a run imports, once for all
from alphabar.data.sources.digits import DigitsSource  # noqa: E402
from alphabar.runs.metrics_csv import read_metrics  # noqa: E402
from alphabar.runs.run_speed import CLOCKED  # noqa: E402

RUN = (
    "network.base_channels=8",
    "network.norm_groups=4",
    "data.batch_size=32",
    "lr_scheduler.warmup_steps=3",
    "logger=csv",
    "resume=auto",
    "trainer.accelerator=cpu",
    "trainer.max_steps=40",
    "trainer.log_every_n_steps=5",
    "sampler.num_steps=2",
    "callbacks.checkpoints.every_n_steps=3",
    "callbacks.samples.every_n_steps=20",
    "callbacks.samples.num=2",
    "callbacks.held_out_loss.every_n_steps=20",
    "callbacks.held_out_loss.num=16",
    "callbacks.film=null",
    "callbacks.fid=null",
)
PR_SET_CHILD_SUBREAPER = 36  # processes whose parent was killed become children of this one, which sees them end
POLL = 0.0005  # seconds


class Attempt(NamedTuple):
    """One start of the run: whether it was killed, its exit status, and the seconds that its other processes outlived it."""

    was_killed: bool
    in_write: bool
    status: int
    outlived: float


def start(folder: Path, words: list[str]) -> int:
    """Starts train.py in a fork of this process, which has imported everything, and returns its process ID."""
    if pid := os.fork():
        return pid
    with (folder.parent / f"{folder.name}.log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = [str(ROOT / "train.py"), *RUN, f"hydra.run.dir={folder}", *words]
    code = 1
    try:
        train.main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def is_writing(folder: Path) -> bool:
    """Returns whether a checkpoint is being written in the folder of a run."""
    return any((folder / "checkpoints").glob(".*.tmp"))


def processes() -> list[int]:
    """Returns the children of this process that have not ended, and their children."""
    found, fresh = [], [os.getpid()]
    while fresh:
        with suppress(OSError):  # it ends meanwhile
            for task in Path(f"/proc/{fresh.pop()}/task").iterdir():
                children = [int(word) for word in (task / "children").read_text().split()]
                found += children
                fresh += children
    return found


def ended(pid: int) -> int | None:
    """Returns the status of a child of this process once it has ended, else None."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def attempt(folder: Path, words: list[str], delay: float, in_write: bool, rank: int, bound: float) -> Attempt:
    """Starts the run and kills the process of a rank after `delay` seconds and, if `in_write`, at the next checkpoint's write."""
    pid = start(folder, words)
    begin = time.perf_counter()
    while (status := ended(pid)) is None:
        if time.perf_counter() - begin > delay and (not in_write or is_writing(folder)):
            others = [each for each in processes() if each != pid]
            if rank == 0 or others:
                os.kill(pid if rank == 0 else others[0], signal.SIGKILL)
                break
        time.sleep(POLL)
    killed = time.perf_counter()
    while left := processes():
        for each in left:
            try:
                found = ended(each)
            except ChildProcessError:  # a grandchild
                continue
            status = found if each == pid else status
        if time.perf_counter() - killed > bound:
            sys.exit(f"{folder}: {len(left)} processes are still there {bound:.0f} s after one was killed")
        time.sleep(POLL)
    assert status is not None
    return Attempt(status != 0, in_write, status, time.perf_counter() - killed)


def content(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what has to be equal in two runs: the state in the last checkpoint, and the figures but for speeds."""
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {key: last[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "ema", "global_step")}
    columns = read_metrics(folder / "metrics.csv").columns
    return kept, {name: values for name, values in columns.items() if name not in CLOCKED}


def difference(one: Any, other: Any, tolerance: float, path: str = "") -> str | None:
    """Returns the path of the first difference of two nested structures of numbers and tensors, or None.

    tolerance: the relative difference that numbers, but not tensors, may have.
    """
    if isinstance(one, dict | list | tuple) and len(one) == len(other):
        pairs = one.items() if isinstance(one, dict) else enumerate(one)
        missing = (f"{path}/{key}" for key in one if key not in other) if isinstance(one, dict) else ()
        found = (difference(value, other[key], tolerance, f"{path}/{key}") for key, value in pairs)
        return next(iter(missing), None) or next(filter(None, found), None)
    if isinstance(one, torch.Tensor):
        return None if torch.equal(one, other) else path
    is_close = isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=tolerance)
    return None if is_close or one == other else path


def kill_runs(home: Path, kills: int, words: list[str], rng: random.Random, bound: float, num_ranks: int) -> list[Attempt]:
    """Returns the attempts of runs that were killed `kills` times in all. Ends the script if one is not as the uncut one."""
    begin = time.perf_counter()
    uncut = home / f"uncut{num_ranks}"
    if (first := attempt(uncut, words, float("inf"), False, 0, bound)).status != 0:
        sys.exit(f"the uncut run ended with {first.status}:\n{(home / f'{uncut.name}.log').read_text()}")
    duration, expected, attempts = time.perf_counter() - begin, content(uncut), []
    while sum(each.was_killed for each in attempts) < kills:
        folder = home / f"run{num_ranks}"
        while True:
            is_last = sum(each.was_killed for each in attempts) >= kills
            delay = float("inf") if is_last else rng.uniform(0, duration)
            attempts.append(attempt(folder, words, delay, rng.random() < 0.25, rng.randrange(num_ranks), bound))
            if not attempts[-1].was_killed:
                break
        # Of several processes, the sums of losses in a checkpoint are those of all ranks, which are added in another order.
        tolerance = 0.0 if num_ranks == 1 else 1e-5
        if (place := difference(expected, content(folder), tolerance)) is not None:
            sys.exit(f"another outcome than that of the uncut run: {place}\n{(home / f'{folder.name}.log').read_text()}")
        shutil.rmtree(folder)
    return attempts


def report(attempts: list[Attempt]) -> str:
    """Returns one line that sums up the attempts."""
    killed = [each for each in attempts if each.was_killed]
    runs = len(attempts) - len(killed)
    in_write = sum(each.in_write for each in killed)
    slowest = max((each.outlived for each in killed), default=0.0)
    return (
        f"{len(killed)} kills, {in_write} of them while a checkpoint was written; {runs} runs ended as the uncut one, to the bit; "
        f"all processes had ended {slowest:.1f} s after a kill at the latest"
    )


def main() -> None:
    """Prints a line for each kind of kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rank-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bound", type=float, default=60.0, help="seconds in which all processes have to end after a kill")
    arguments, words = parser.parse_known_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    rng = random.Random(arguments.seed)
    DigitsSource()
    with tempfile.TemporaryDirectory() as home:
        for num_ranks, kills in ((1, arguments.kills), (2, arguments.rank_kills)):
            if kills:
                own = [*words, f"trainer.devices={num_ranks}", f"features.cache_dir={home}/cache"]
                attempts = kill_runs(Path(home), kills, own, rng, arguments.bound, num_ranks)
                print(f"{num_ranks} process{'es' if num_ranks > 1 else ''}: {report(attempts)}", flush=True)


if __name__ == "__main__":
    main()
