"""How many cores of the processor a program may use, and how many of them other programs leave."""

import math
import os
import time
from pathlib import Path

import torch

THREADS_GIVEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which a user chooses the number of threads
THREADS = {"default": 0, "ours": 0}  # before and after this module set their number; 0: it has not
SECONDS = 0.2  # for which other programs are watched
CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of a container: "200000 100000" is two cores
CPU_TIMES = Path("/proc/stat")  # of Linux: user, nice, system, idle, iowait, irq, softirq and stolen time of each core


def free_cores() -> tuple[int, float]:
    """Returns the number of cores that are left for this program, at least 1, and how many cores' time others take.

    Others in a container with a share of the cores are not told from those outside.
    Threads that wait for each other at the end of every operation lose far more than the share of the core that one of them has to
    give to another program: beside a busy program on two cores, one thread is about twice as fast as two.
    """
    cores, taken = min(default_threads(), allowed_cores()), cores_in_use()
    return max(1, min(cores, visible_cores() - int(taken + 0.5))), taken


def default_threads() -> int:
    """Returns the number of threads that torch takes by itself, or that somebody else has set."""
    now = torch.get_num_threads()
    return THREADS["default"] if now == THREADS["ours"] else now


def use_threads(num: int) -> None:
    """Sets the number of threads, at most as many as there are cores; 0: `default_threads`, which it leaves as it is."""
    most = default_threads()
    torch.set_num_threads(min(num, allowed_cores()) if num else most)
    THREADS.update(default=most, ours=torch.get_num_threads())


def allowed_cores() -> int:
    """Returns the number of cores that this process may run on, which a container or a batch system limits."""
    try:
        quota, period = CGROUP_LIMIT.read_text().split()
        limit = math.inf if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        limit = math.inf
    return int(min(visible_cores(), limit))


def visible_cores() -> int:
    """Returns the number of cores that this process may run on, of whose time a container may still have a share alone."""
    return len(own_cores()) or os.cpu_count() or 1


def own_cores() -> set[int]:
    """Returns the numbers of the cores that this process may run on, empty where the system does not say."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # macOS and Windows
        return set()


def cores_in_use(seconds: float = SECONDS) -> float:
    """Returns how many of this process's cores are busy while it waits, 0 where the system does not say.

    What runs at low priority gives way, and does not count.
    """
    try:
        begin, before = time.perf_counter(), busy_seconds()
        time.sleep(seconds)
        return (busy_seconds() - before) / (time.perf_counter() - begin)
    except (OSError, ValueError, IndexError):
        return 0.0


def busy_seconds() -> float:
    """Returns for how long this process's cores have been busy since the start of the system. Raises OSError if that is unknown."""
    names, ticks = {f"cpu{core}" for core in own_cores()}, 0
    for line in CPU_TIMES.read_text().splitlines():
        name, *numbers = line.split()
        if name in names:
            user, _, system, _, _, irq, softirq, stolen, *_ = map(int, numbers)
            ticks += user + system + irq + softirq + stolen
    return ticks / os.sysconf("SC_CLK_TCK")
