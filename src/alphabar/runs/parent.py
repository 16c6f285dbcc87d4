"""Processes that end with the one that started them, however that one ends."""

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = "ALPHABAR_PARENT"  # the variable of a process that is to end with its parent: the number of the parent
GRACE = 30.0  # seconds until a job that was asked to stop is killed: it may be writing a large checkpoint
PERIOD = 0.5  # seconds between two looks at whether the parent is still there
PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent() -> None:
    """Makes this process end with its parent, if the environment says so; to be called once, at the beginning.

    The second and further processes of a run are killed by the system at once (elsewhere than on Linux within `PERIOD`), since
    without the first they would wait for it. The job of a sweep is asked to stop, with its whole group, and killed after `GRACE`.
    """
    number = os.environ.pop(PARENT, None)
    if number is None:
        return
    is_job = os.getpgrp() == os.getpid()
    if not is_job and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(number):
        os._exit(128 + signal.SIGTERM)
    threading.Thread(target=_watch, args=(int(number), is_job), daemon=True, name="parent-watch").start()


def _watch(parent: int, is_job: bool) -> None:
    """Waits for the end of the parent, and then ends this process."""
    while os.getppid() == parent:
        time.sleep(PERIOD)
    if not is_job:
        os.kill(os.getpid(), signal.SIGKILL)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)
