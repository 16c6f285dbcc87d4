"""What networks cost: FLOPs and memory of an image, and bytes between GPUs. A minute on a CPU: the tensors have no numbers.

    python benchmarks/scaling.py                        all networks of conf/network
    python benchmarks/scaling.py unet_cifar10 dit       some of them

Prints the tables of docs/speed.md. FLOPs are those of products and convolutions, a multiplication and an addition being two; a step
is the forward and the backward pass. What is counted depends on no machine. The times of the last table are bytes over a bandwidth
and FLOPs over a rate, all of which are assumed (--node-bandwidth, --network-bandwidth, --tflops) and measured nowhere.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from measuring.ours import our_config
from measuring.roofline import forward_flops, training_flops
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from alphabar.cli.console import configure_logging
from alphabar.config.build import build
from alphabar.models.networks import Network, kernels

# Channels and resolution of the images that a network of conf/network is for.
SIZES = {
    "unet_tiny": (1, 8),
    "unet_light": (3, 32),
    "unet_small": (3, 32),
    "unet_cifar10": (3, 32),
    "unet": (3, 64),
    "dit_tiny": (1, 8),
    "dit": (3, 32),
}
WIDTHS = {
    "unet_cifar10": [("network.base_channels", width) for width in (64, 128, 256)],
    "dit": [("network.width", width) for width in (192, 384, 768)],
}
STATE = 4 + 4 + 8 + 4  # bytes of a parameter: weight, gradient, two moments of Adam, average, all float32
GRADIENT = 4  # bytes
MB, GB, GFLOP = 1e6, 1e9, 1e9


class Passes(NamedTuple):
    """What one image takes: FLOPs of the forward pass and of a step; parameters: of the network."""

    parameters: int
    forward: int
    step: int


def make_network(words: Sequence[str], channels: int, resolution: int) -> Network:
    """Returns the network of `python train.py WORDS` on images of this size, in the mode of training."""
    network = build(our_config(words, channels, resolution).network, "network")
    assert isinstance(network, Network)
    return network.train()


def passes(words: Sequence[str], channels: int, resolution: int) -> Passes:
    """Returns what an image takes in the network of `python train.py WORDS`."""
    with FakeTensorMode():
        network = make_network(words, channels, resolution)
        forward, step = (count(network, channels, resolution) for count in (forward_flops, training_flops))
    return Passes(sum(parameter.numel() for parameter in network.parameters()), forward, step)


class InFloat32(TorchFunctionMode):
    """Computes normalisation and softmax in float32, as autocast does on GPUs and, of GroupNorm, not on CPUs."""

    functions = (F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*((args[0].float(), *args[1:]) if func in self.functions else args), **(kwargs or {}))


@contextmanager
def autocast_of_gpu(dtype: torch.dtype) -> Iterator[None]:
    """Casts, inside the context, tensors on a CPU as autocast casts those on a GPU; nothing in float32."""
    if dtype == torch.float32:
        yield
        return
    with torch.autocast("cpu", dtype), InFloat32():
        yield


def saved_bytes(name: str, dtype: torch.dtype) -> int:
    """Returns the bytes of an image that the forward pass keeps for the backward pass on a GPU, with fused attention.

    They are the difference between a batch of two and one of one, in which weights, and their copies in bfloat16, cancel.
    """
    channels, resolution = SIZES[name]
    totals = []
    with FakeTensorMode():
        network = make_network([f"network={name}"], channels, resolution)
        for batch in (1, 2):
            kept: dict[int, Tensor] = {}  # the tensors, too, since a storage that is freed leaves its number to another

            def keep(tensor: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
                kept.setdefault(tensor.untyped_storage()._cdata, tensor)
                return tensor

            with saved_tensors_hooks(keep, lambda tensor: tensor), autocast_of_gpu(dtype):
                output = network(torch.empty(batch, channels, resolution, resolution), torch.empty(batch))
            totals.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
            del output
    return totals[1] - totals[0]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table as Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def number(value: float) -> str:
    """Returns three digits: "12.4", "0.0312", "1,240"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def resolutions(names: Sequence[str]) -> str:
    """Returns the table of FLOPs at the resolution that a network is for, and at twice it."""
    rows = []
    for name in names:
        channels, side = SIZES[name]
        own, twice = (passes([f"network={name}"], channels, resolution) for resolution in (side, 2 * side))
        flops = [number(each / GFLOP) for each in (own.forward, own.step, twice.forward, twice.step)]
        rows.append([f"`{name}`", f"{side}x{side}", number(own.parameters / 1e6), *flops, f"{twice.step / own.step:.1f}"])
    head = ["network", "at", "million parameters", "GFLOP an image, forward", "step", "forward at twice it", "step", "step, ratio"]
    return table(head, rows)


def widths(names: Sequence[str]) -> str:
    """Returns the table of FLOPs against width, of networks in WIDTHS."""
    rows = []
    for name in names:
        for key, width in WIDTHS[name]:
            found = passes([f"network={name}", f"{key}={width}"], *SIZES[name])
            flops = [number(each / GFLOP) for each in (found.forward, found.step)]
            rows.append([f"`network={name} {key}={width}`", number(found.parameters / 1e6), *flops])
    return table(["network", "million parameters", "GFLOP an image, forward", "step"], rows)


def memory(names: Sequence[str], batch: int) -> str:
    """Returns the table of memory: of the parameters, of an image, and of a batch in bfloat16."""
    rows = []
    for name in names:
        parameters = passes([f"network={name}"], *SIZES[name]).parameters
        exact, rounded = (saved_bytes(name, dtype) for dtype in (torch.float32, torch.bfloat16))
        total = (STATE + 2) * parameters + batch * rounded
        cells = [number(each / MB) for each in (STATE * parameters, 2 * parameters, exact, rounded)]
        rows.append([f"`{name}`", *cells, number(total / GB)])
    head = ["network", "MB of parameters", "copies in bfloat16", "MB an image, float32", "bf16-mixed"]
    return table([*head, f"GB, {batch} images in bf16-mixed"], rows)


def wire(names: Sequence[str], options: argparse.Namespace) -> str:
    """Returns the table of the bytes that a GPU sends in a step, their time, and the batch whose backward pass takes as long.

    DDP: a ring all-reduce of the gradients, 2 (N - 1) / N of their bytes (Patarasuk & Yuan 2009). FSDP: the weights are gathered
    twice and the gradients reduced and scattered, 3 (N - 1) / N (Rajbhandari et al. 2020, sec. 7).
    """
    rows = []
    for name in names:
        found = passes([f"network={name}"], *SIZES[name])
        for num, bandwidth in ((8, options.node_bandwidth), (64, options.network_bandwidth)):
            part = GRADIENT * found.parameters * (num - 1) / num
            seconds = 2 * part / (bandwidth * GB)
            hidden = math.ceil(seconds * options.tflops * 1e12 / (found.step - found.forward))
            cells = [number(2 * part / MB), number(3 * part / MB), f"{1e3 * seconds:.2f}", f"{hidden:,}"]
            rows.append([f"`{name}`", f"{num}", f"{bandwidth:g} GB/s", *cells])
    head = ["network", "GPUs", "assumed", "MB a step, DDP", "FSDP", "ms, DDP"]
    return table([*head, f"images on a GPU that hide it, at {options.tflops:g} TFLOP/s"], rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(SIZES)}; none: all")
    parser.add_argument("--batch", type=int, default=128, help="images of a GPU, of the table of memory")
    parser.add_argument("--tflops", type=float, default=400, help="that a GPU is assumed to reach")
    parser.add_argument("--node-bandwidth", type=float, default=450, help="GB/s of a GPU to others of its machine, assumed")
    parser.add_argument("--network-bandwidth", type=float, default=50, help="GB/s of a GPU to those of other machines, assumed")
    options = parser.parse_args()
    if unknown := [name for name in options.networks if name not in SIZES]:
        parser.error(f"{unknown[0]}: need one of {', '.join(SIZES)}")
    configure_logging()
    kernels.MAX_SCORES = 0  # fused attention in every precision, as on GPUs
    names = options.networks or list(SIZES)
    print(resolutions(names), flush=True)
    if wide := [name for name in names if name in WIDTHS]:
        print(widths(wide), flush=True)
    print(memory(names, options.batch), flush=True)
    print(wire(names, options))


if __name__ == "__main__":
    main()
