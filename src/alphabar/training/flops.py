"""The FLOPs of training steps, and how many a second a device can do at most: figures of its maker, or else measured."""

import re
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# TFLOP/s without sparsity in 16 bits (with float32 sums), in TF32 and in float32, by expressions for the names of GPUs, of which
# the first that fits counts; 0: the GPU has no such units. From the data sheets of NVIDIA, and for GeForce from its whitepapers on
# GA102 (v2.1) and Ada (v2.1). The table of Lightning has figures with sparsity for some, and rates of shaders for GeForce.
GPUS: dict[str, tuple[float, float, float]] = {
    r"\bH200 NVL\b": (835, 417, 60),
    r"\bH200\b": (989, 495, 67),
    r"\bH100 NVL\b": (835, 417, 60),
    r"\bH100 PCIe\b": (756, 378, 51),
    r"\bH100 80GB HBM3\b": (989, 495, 67),
    r"\bA100\b": (312, 156, 19.5),
    r"\bL40S\b": (362, 183, 91.6),
    r"\bL4\b": (121, 60, 30.3),
    r"\bA10\b": (125, 62.5, 31.2),
    r"\bT4\b": (65, 0, 8.1),
    r"\bV100-PCIE\b": (112, 0, 14),
    r"\bV100-SXM2\b": (125, 0, 15.7),
    r"\bRTX 3090$": (71, 35.6, 35.6),
    r"\bRTX 4090$": (165, 82.6, 82.6),
}
PART_OF_GPU = r"\bMIG\b|\bGRID\b"  # in the names of devices that are a part of a GPU
MIN_SECONDS, MAX_SIZE = 0.001, 8192  # of a product of matrices that is timed, and their largest size
TRIAL_SECONDS, MIN_TRIALS = 0.03, 2  # of which the fastest counts, after one that prepares


def attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *args: object, **kwargs: object) -> int:
    """Returns the FLOPs of softmax(q k^T) v by the shapes of its tensors."""
    return sdpa_flop_count(query, key, value)


def attention_backward_flops(
    gradient: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *args: object, **kwargs: object
) -> int:
    """Returns the FLOPs of the backward pass of `attention_flops`."""
    return sdpa_backward_flop_count(gradient, query, key, value)


# The fused attention of CPUs, which torch does not count.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}


class PeakRate(NamedTuple):
    """FLOP/s of one device at most. dtype: that of the factors, "tfloat32" among them. is_measured: whether they were measured."""

    flops: float
    dtype: str
    is_measured: bool

    def __str__(self) -> str:
        return f"{format_flops(self.flops)}/s in {self.dtype}{' (measured)' if self.is_measured else ''}"


def format_flops(flops: float) -> str:
    """Returns a number of FLOPs as "5.12 GFLOP" or "0.989 PFLOP"."""
    unit, size = next((each for each in (("P", 1e15), ("T", 1e12), ("G", 1e9)) if flops >= 0.5 * each[1]), ("M", 1e6))
    return f"{flops / size:.3g} {unit}FLOP"


def flop_counter() -> FlopCounterMode:
    """Returns a context that counts the FLOPs of products and convolutions, those of the fused attention of CPUs, too."""
    return FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)


def count_flops(act: Callable[[], object]) -> int | None:
    """Returns the FLOPs of the products and convolutions of a call, backward passes included; None if they cannot be counted.

    An operation of somebody else that the counter does not know counts as none, and may fail under it. What is computed twice, as
    with `torch.utils.checkpoint`, counts twice.
    """
    try:
        with torch.compiler.set_stance("force_eager"), flop_counter() as counter:  # its hooks would make torch compile anew
            act()
    except Exception:  # of any kind: networks of somebody else; an error of their own comes again without the counter
        return None
    return counter.get_total_flops() or None


def compute_dtype(trainer: Trainer) -> torch.dtype:
    """Returns the dtype in which the run's precision multiplies matrices."""
    kind = trainer.strategy.root_device.type
    with trainer.precision_plugin.forward_context():
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.get_default_dtype()


def peak_rate(device: torch.device, dtype: torch.dtype) -> PeakRate:
    """Returns what the maker of a GPU says, or what is measured once in a few milliseconds where no figure is known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    found = published_rate(name, dtype, uses_tf32())
    return measured_rate(device, dtype) if found is None else found


def uses_tf32() -> bool:
    """Returns whether a GPU may use TF32 for float32, in products of matrices or in convolutions, where that is torch's default."""
    rules = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return any(rule.fp32_precision == "tf32" for rule in rules)


def published_rate(name: str, dtype: torch.dtype, tf32: bool) -> PeakRate | None:
    """Returns the rate of a GPU by its name, or None if `GPUS` does not have it; tf32: whether it replaces float32."""
    if re.search(PART_OF_GPU, name):
        return None
    in_16_bits, in_tf32, in_float32 = next((rates for key, rates in GPUS.items() if re.search(key, name)), (0.0, 0.0, 0.0))
    if dtype == torch.float32 and tf32 and in_tf32:
        return PeakRate(in_tf32 * 1e12, "tfloat32", is_measured=False)
    in_bfloat16 = in_16_bits if in_tf32 else 0.0  # both came with Ampere
    rates = {torch.bfloat16: in_bfloat16, torch.float16: in_16_bits, torch.float32: in_float32}
    return PeakRate(rates[dtype] * 1e12, dtype_name(dtype), is_measured=False) if rates.get(dtype) else None


def dtype_name(dtype: torch.dtype) -> str:
    """Returns "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


@cache
def measured_rate(device: torch.device, dtype: torch.dtype) -> PeakRate:
    """Returns the rate of a product of matrices or of a 3x3 convolution, whichever is faster: neither is so everywhere.

    The matrices grow until a product takes MIN_SECONDS, since small ones do not occupy a large device.
    """
    size = 512
    while (seconds := matmul_seconds(size, device, dtype)) < MIN_SECONDS and size < MAX_SIZE:
        size *= 2
    seconds = min(seconds, conv_seconds(size, device, dtype))
    return PeakRate(2 * size**3 / seconds, dtype_name(dtype), is_measured=True)


def matmul_seconds(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Returns the time of a product of two square matrices with `size` rows."""
    factor = torch.ones(size, size, device=device, dtype=dtype)
    return fastest_seconds(lambda: factor @ factor, device)


def conv_seconds(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Returns the time of 3x3 convolutions of 128 channels to as many that take 2 size^3 FLOPs, of 32x32 in channels_last."""
    batch = max(1, round(size**3 / (128 * 128 * 9 * 32 * 32)))
    x = torch.ones(batch, 128, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(128, 128, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    flops = 2 * batch * 128 * 128 * 9 * 32 * 32
    return fastest_seconds(lambda: F.conv2d(x, weight, padding=1), device) * 2 * size**3 / flops


@torch.no_grad()
def fastest_seconds(act: Callable[[], object], device: torch.device) -> float:
    """Returns the shortest time of MIN_TRIALS calls or more, for TRIAL_SECONDS, after one that prepares."""
    times: list[float] = []
    while len(times) <= MIN_TRIALS or sum(times) < TRIAL_SECONDS:
        wait_for(device)
        begin = time.perf_counter()
        act()
        wait_for(device)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def wait_for(device: torch.device) -> None:
    """Waits until the device has done all that it was given."""
    torch.zeros((), device=device).item()
