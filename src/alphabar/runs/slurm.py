"""Jobs of Slurm that are cut off: they are queued again and go on."""

import os
import shutil
import signal
import subprocess

REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # what `sbatch --signal` and submitit send before the time is over
SECONDS = 60


def requeue_job(number: int, goes_on: bool) -> None:
    """Asks Slurm to queue this process's job again if signal `number` says that its time is over, and prints a line about it.

    goes_on: whether the job's command goes on with its run when it is started again.
    """
    job = job_id()
    if job is None or number not in REQUEUE_SIGNALS:
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
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")
