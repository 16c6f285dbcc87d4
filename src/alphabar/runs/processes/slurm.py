"""Jobs of Slurm that are cut off: they are queued again and go on."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # what `sbatch --signal` and submitit send before the time is over
SECONDS = 60
OF_A_SWEEP = "ALPHABAR_SWEEP"  # a variable that the jobs of a sweep have


class OutOfTime(SystemExit):
    """Ends a command that was told, outside a run of its own, that the time of its job is over: SystemExit(128 + number)."""


@contextmanager
def ended_by_requeue_signals() -> Iterator[None]:
    """Makes a signal that comes before the end of a job raise OutOfTime inside the context, unless a run or a sweep handles it.

    By default it would end a process that is still importing torch without a word. A forked process ends as by default.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise OutOfTime(128 + number)

    default = [number for number in REQUEUE_SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in default:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in default:
            signal.signal(number, signal.SIG_DFL)


def requeue_job(number: int, goes_on: bool) -> None:
    """Asks Slurm to queue this process's job again if signal `number` says that its time is over, and prints a line about it.

    Does nothing in a job of a sweep, since its launcher asks once for all of them. goes_on: whether the command goes on with its
    run or sweep when it is started again.
    """
    job = job_id()
    if job is None or number not in REQUEUE_SIGNALS or OF_A_SWEEP in os.environ:
        return
    if not goes_on:
        line = "is not queued again: its command would not go on with this run, as it does with resume=auto"
    elif shutil.which("scontrol") is None:
        line = "cannot be queued again: there is no scontrol here"
    else:
        line = _requeue(job)
    print(f"job {job} of Slurm {line}", flush=True)


def _requeue(job: str) -> str:
    """Calls `scontrol requeue` and returns what came of it."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be queued again: {' '.join(str(error).split())}"
    return "is queued again, and goes on" if done.returncode == 0 else f"cannot be queued again: {' '.join(done.stderr.split())}"


def job_id() -> str | None:
    """Returns the id of Slurm's job that this process belongs to, ARRAY_TASK for one of an array; None if there is none."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return os.environ.get("SLURM_JOB_ID") if array is None or task is None else f"{array}_{task}"
