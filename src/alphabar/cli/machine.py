"""Detection of a GPU without loading torch."""

import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DRIVERS = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, under WSL too, and AMD
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@cache
def has_gpu() -> bool:
    """Returns whether there seems to be a GPU that torch can use: a driver, a torch that is built for it, and none hidden.

    A command that waited for torch to say so would answer a misspelt word ten times later.
    """
    if any(os.environ.get(name, "0").strip() in ("", "-1") for name in VISIBLE):
        return False
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        is_built_for_cpu = version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False
    if sys.platform == "win32":
        return not is_built_for_cpu and Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32/nvcuda.dll").exists()
    return not is_built_for_cpu and any(os.path.exists(path) for path in DRIVERS)
