"""How a network is made to compute fast: its precision, its memory format and its compilation, chosen for the device it runs on."""

import importlib.util
import logging
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.allocator import keep_freed_memory
from alphabar.cores import THREADS_GIVEN, default_threads, free_cores, use_threads, visible_cores
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.models.networks import Network

log = logging.getLogger(__name__)
BFLOAT16, FLOAT16, FLOAT32 = "bf16-mixed", "16-mixed", "32-true"
GAIN = 1.2  # by which bfloat16 has to be faster than float32 in the trial
TRIALS = 5  # of which the fastest counts
# Compiling takes about a minute: it pays if a fifth of a step of 50 ms is saved this often.
WORTH_COMPILING = 6000
MAX_GRAPHS = 256  # that torch may compile of one function: a U-Net's layers have a dozen shapes, for each mode and batch size


class Speed(NamedTuple):
    """The way in which networks compute. Weights, schedule, noise and averages are float32 in all of them.

    precision: of products of matrices and convolutions, "bf16-mixed" (bfloat16), "16-mixed" or "32-true", as Lightning calls them.
    channels_last: whether weights and images of the network lie in memory pixel by pixel.
    compile: whether torch compiles the regions of the network, see `Network.regions`.
    tf32: whether a GPU may multiply float32 matrices in TF32, with 10 bits after the point.
    threads: that share an operation on a processor; 0: as many as torch takes, or OMP_NUM_THREADS says.
    keep_memory: whether memory of tensors that are freed stays with the process, see `keep_freed_memory`.
    """

    precision: str = FLOAT32
    channels_last: bool = False
    compile: bool = False
    tf32: bool = False
    threads: int = 0
    keep_memory: bool = False

    def __str__(self) -> str:
        kinds = {"channels_last": self.channels_last, "TF32": self.tf32, "compiled": self.compile}
        return ", ".join([self.precision, *(kind for kind, is_used in kinds.items() if is_used)])


def fastest(
    device: torch.device, num_processes: int = 1, num_calls: int | None = None, given: Mapping[str, Any] | None = None
) -> Speed:
    """Returns what is fastest on a device, but for what is given, by its name in `Speed`, which is not measured.

    num_processes: that share the work. More than one have to choose alike, so that they ask the processor for what it has instead
        of measuring; one process measures, since there are processors that only imitate bfloat16, twenty times slower.
    num_calls: of the network; None: not known, as for a run without a last step.
    """
    given = given or {}
    if len(given) == len(Speed._fields):
        return Speed(**given)
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        precision, compiles = BFLOAT16 if has_bfloat16 else FLOAT32, reason_not_to_compile(device, num_calls) is None
        tf32 = has_bfloat16 and given.get("precision") != FLOAT32
        found = Speed(precision, channels_last=has_bfloat16, compile=compiles, tf32=tf32)
    elif device.type == "cpu":
        is_one, measures = num_processes == 1, "precision" not in given
        pays = measures and has_bfloat16_units() and (not is_one or bfloat16_gain() >= GAIN)
        threads = threads_beside_others() if is_one and "threads" not in given else 0
        found = Speed(BFLOAT16 if pays else FLOAT32, channels_last=True, threads=threads, keep_memory=True)
    else:
        found = Speed()
    return found._replace(**given)


def possible(speed: Speed, device: torch.device, says_so: bool = True) -> Speed:
    """Returns a speed as this machine can have it. says_so: by a line where that is less than was asked for, or far slower."""
    warn = log.warning if says_so else log.debug
    if speed.precision == FLOAT16 and device.type == "cpu":
        precision = BFLOAT16 if has_bfloat16_units() else FLOAT32
        warn("precision=%s: is for GPUs; on this processor precision=%s", FLOAT16, precision)
        speed = speed._replace(precision=precision)
    if speed.precision == BFLOAT16 and device.type == "cpu" and not has_bfloat16_units() and says_so:
        tell_of_imitation()
    if speed.compile and device.type == "cuda" and (reason := reason_not_to_compile(device, None)) is not None:
        warn("speed.compile=true: %s, so that nothing is compiled", reason)
        speed = speed._replace(compile=False)
    return speed


@cache
def tell_of_imitation() -> None:
    """Says, once in a process, that the processor has no bfloat16."""
    log.warning("precision=%s: this processor only imitates bfloat16, far slower than float32, which is speed=off", BFLOAT16)


def threads_beside_others() -> int:
    """Returns the number of threads that do not wait for cores which other programs use; 0 where the user has chosen it.

    A line says so if there are fewer than cores.
    """
    if any(name in os.environ for name in THREADS_GIVEN):
        return 0
    cores, taken = free_cores()
    if cores < (most := default_threads()):
        log.warning(
            "other programs take %.1f of %d cores, or they are limited to fewer: %d of %d threads; OMP_NUM_THREADS=%d takes all",
            *(taken, visible_cores(), cores, most, most),
        )
    return cores


def reason_not_to_compile(device: torch.device, num_calls: int | None) -> str | None:
    """Returns why compiling the network would not pay, or None if it does; num_calls: as for `fastest`."""
    if device.type != "cuda":
        return "pays on NVIDIA GPUs"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if num_calls is not None and num_calls < WORTH_COMPILING:
        return f"pays from {WORTH_COMPILING:,} steps"
    return None


def has_bfloat16_units() -> bool:
    """Returns whether the processor multiplies numbers in bfloat16 itself, and oneDNN may use that."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and any(supported() for supported in (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported))
    )


@cache
def bfloat16_gain() -> float:
    """Returns how much faster a convolution, forward and backward, is on this processor in bfloat16 than in float32.

    One thread is measured: more would have to wait for each other wherever another program takes one of their cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return trial_seconds(torch.float32) / trial_seconds(torch.bfloat16)
    finally:
        torch.set_num_threads(threads)


def trial_seconds(dtype: torch.dtype) -> float:
    """Returns the time of a convolution of 64 channels of eight images of 16x16, forward and backward; the best of a few."""
    x, weight = torch.ones(8, 64, 16, 16, dtype=dtype), torch.ones(64, 64, 3, 3, dtype=dtype)
    x.requires_grad_()
    weight.requires_grad_()
    seconds = []
    with torch.enable_grad():
        for _ in range(TRIALS + 1):  # the first prepares
            begin = time.perf_counter()
            F.conv2d(x, weight, padding=1).sum().backward()
            seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def device_of(accelerator: str) -> torch.device:
    """Returns the kind of device that Lightning takes for an accelerator, such as "auto"."""
    if accelerator in ("auto", "gpu"):
        kinds = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
        return torch.device(next((kind for kind, is_there in kinds.items() if is_there()), "cpu"))
    return torch.device(accelerator if accelerator in ("cuda", "mps") else "cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Returns the context in which networks compute in a precision, as Lightning names it."""
    dtype = {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def prepare(module: nn.Module, speed: Speed) -> None:
    """Makes the networks in a module compute as `speed` says, but for the precision, which is that of the surrounding autocast.

    The names of its weights stay; what it computes differs in rounding alone.
    Sets the number of threads, the allocator and TF32 of the process.
    """
    if not any(name in os.environ for name in THREADS_GIVEN):
        use_threads(speed.threads)
    if speed.keep_memory:
        keep_freed_memory()
    if speed.channels_last:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim == 4:
                tensor.data = in_channels_last(tensor.data)
    torch.set_float32_matmul_precision("high" if speed.tf32 else "highest")
    if speed.compile:
        torch._dynamo.config.recompile_limit = max(MAX_GRAPHS, torch._dynamo.config.recompile_limit)
        for region in regions(module):
            region.compile(dynamic=False)


def in_channels_last(tensor: Tensor) -> Tensor:
    """Returns a tensor [N, C, H, W] that lies in memory pixel by pixel, with the strides of that format whatever C, H and W.

    Convolutions ask the strides of their weight for the format of their output. The weight of a layer for one channel fits both
    formats, so that `contiguous` leaves its strides: all features of a network for grey images would lie channel by channel.
    """
    return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)


def regions(module: nn.Module) -> list[nn.Module]:
    """Returns the parts of the networks in a module that are compiled one by one; a network of somebody else is one."""
    parts = list(module.modules())
    ours = [region for part in parts if isinstance(part, Network) for region in part.regions]
    return ours + [part.network for part in parts if isinstance(part, NetworkDenoiser) and not isinstance(part.network, Network)]
