"""What the machine can do, and what a network asks for."""

from collections.abc import Callable, Sequence

import torch
from measuring.timing import Clock, Loop
from torch import Tensor
from torch.nn import functional as F

from alphabar.training.flops import flop_counter

LEAST_CALLS = 10  # of a kernel in a round, since one alone may meet any moment of a noisy machine
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Batch, channels and resolution of 3x3 convolutions, and sides of square matrices, by kind of device: large enough for its peak.
CONVOLUTIONS = {"cpu": ((8, 128, 32), (8, 256, 16)), "cuda": ((256, 256, 32), (256, 512, 16))}
MATRICES = {"cpu": (2048,), "cuda": (8192,)}


class Kernel(Loop):
    """A kernel of the device's library, over and over: the rate that it reaches is one that a network could reach."""

    images = 1

    def __init__(
        self, label: str, precision: str, flop: float, call: Callable[[], object], clock: Clock, device: torch.device, least: int
    ) -> None:
        super().__init__(clock, device)
        self.least = least
        self.label, self.precision, self.flop, self.call = label, precision, flop, call

    def times(self, num: int) -> list[float]:
        return super().times(max(num, self.least))

    def act(self) -> None:
        with torch.inference_mode():
            self.call()

    @property
    def gflop(self) -> float:
        return self.flop / 1e9


def kernels(precisions: Sequence[str], clock: Clock, device: torch.device, steps: int | None) -> list[Kernel]:
    """Returns 3x3 convolutions (channels last) and products of matrices in each precision.

    steps: calls in a round, where they are given; None: as many as the others do, but LEAST_CALLS or more.
    """
    least = steps or LEAST_CALLS
    found, kind = [], device.type if device.type in MATRICES else "cpu"
    for precision in precisions:
        home = {"dtype": DTYPES[precision], "device": device}
        for batch, channels, resolution in CONVOLUTIONS[kind]:
            x = torch.randn(batch, channels, resolution, resolution, **home).contiguous(memory_format=torch.channels_last)
            weight = torch.randn(channels, channels, 3, 3, **home).contiguous(memory_format=torch.channels_last)
            flop = 2 * 9 * batch * channels**2 * resolution**2
            name = f"3x3 convolution, {channels} channels at {resolution}x{resolution}"
            found.append(Kernel(name, precision, flop, lambda x=x, w=weight: F.conv2d(x, w, padding=1), clock, device, least))
        for side in MATRICES[kind]:
            a, b = torch.randn(side, side, **home), torch.randn(side, side, **home)
            found.append(Kernel(f"matmul {side}x{side}", precision, 2 * side**3, lambda a=a, b=b: a @ b, clock, device, least))
    return found


def training_flops(forward: Callable[[Tensor, Tensor], Tensor], channels: int, resolution: int) -> int:
    """Returns the FLOPs of forward and backward pass of one image; forward(x, t) is the network, on the CPU.

    A multiplication and an addition are two; what is neither a convolution nor a product of matrices does not count.
    """
    with flop_counter() as counter:
        forward(torch.randn(1, channels, resolution, resolution), torch.tensor([500])).square().mean().backward()
    return counter.get_total_flops()


def forward_flops(forward: Callable[[Tensor, Tensor], Tensor], channels: int, resolution: int) -> int:
    """Returns the FLOPs of the forward pass of one image; see `training_flops`."""
    with torch.no_grad(), flop_counter() as counter:
        forward(torch.randn(1, channels, resolution, resolution), torch.tensor([500]))
    return counter.get_total_flops()
