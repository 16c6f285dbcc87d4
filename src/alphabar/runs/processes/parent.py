"""Processes that end with the one that started them, however that one ends."""

import ctypes
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress

PARENT = "ALPHABAR_PARENT"  # the variable of a process that is to end with its parent: the number of the parent
GRACE = 30.0  # seconds until a job that was asked to stop is killed: it may be writing a large checkpoint
PERIOD = 0.5  # seconds between two looks at whether the parent is still there
PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent() -> None:
    """Makes this process end with its parent, if the environment says so; to be called once, at the beginning.

    The job of a sweep is asked to stop, with its whole group, and killed after GRACE seconds; on Linux the kernel tells it at once
    that its parent has ended, elsewhere it looks every PERIOD seconds. The further processes of a run are
    killed, since without the first they would wait for it.
    """
    number = os.environ.pop(PARENT, None)
    if number is None:
        return
    if os.getpgrp() == os.getpid():
        if os.getppid() != int(number):
            os._exit(128 + signal.SIGTERM)
        threading.Thread(target=_stop_with, args=(int(number),), daemon=True, name="parent-watch").start()
    else:
        be_killed_with(int(number))


def be_killed_with(parent: int) -> None:
    """Makes the system kill this process when its parent has ended; on systems that cannot, a thread does within PERIOD seconds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_die_with, args=(parent,), daemon=True, name="parent-watch").start()
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PERIOD)
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_with(parent: int) -> None:
    # A parent-death signal would do for this process, but not for its group, and to a run that saves it would be a second signal.
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel before 5.3, or a parent that has just ended
            select.select([os.pidfd_open(parent)], [], [])
    while os.getppid() == parent:
        time.sleep(PERIOD)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)
