"""The machine on which a command runs: versions of programs, and hardware."""

import os
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import alphabar
from alphabar.config.bounds import memory_of_machine

PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "torch-fidelity", "transformers", "diffusers", "numpy", "scipy", "pillow",
    "hydra-core", "omegaconf",
)  # fmt: skip
GIBIBYTE = 2**30


@cache
def versions() -> dict[str, str]:
    """Returns the versions of alphabar, of Python and of the installed packages that results may depend on."""
    found = {"alphabar": alphabar.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def device_name(device: torch.device) -> str:
    """Returns the name of a GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def hardware(device: torch.device) -> dict[str, Any]:
    """Returns the processor, its cores that this process may use, the memory in GiB, the system and, if it is used, the GPU."""
    gpu: dict[str, Any] = {}
    if device.type == "cuda":
        gpu = {"gpu": device_name(device), "gpu_memory": _gibibytes(torch.cuda.get_device_properties(device).total_memory)}
    memory = {} if (size := memory_of_machine()) is None else {"memory": _gibibytes(size)}
    return {
        "processor": processor_name(),
        "cores": _num_cores(),
        **memory,
        **gpu,
        "system": f"{platform.system()} {platform.machine()}",
    }


@cache
def processor_name() -> str:
    """Returns the name of the processor as far as the system tells it."""
    with suppress(OSError, UnicodeDecodeError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _num_cores() -> int | None:
    """Returns the number of cores that this process may use, or, where the system does not tell, that the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count()


def _gibibytes(size: int) -> float:
    return round(size / GIBIBYTE, 1)
