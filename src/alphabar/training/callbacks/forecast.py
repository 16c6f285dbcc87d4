"""How long a run will take, from steps that are tried before the first one."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from alphabar.runs.processes.distributed import from_first
from alphabar.training.callbacks import RunCallback
from alphabar.training.flops import count_flops, wait_for
from alphabar.training.hooks import image_data
from alphabar.training.modules.base import BaseModule

TRIALS = 3  # measured, after one that warms up; the median counts
PATIENCE = 5.0  # seconds of trials after which no further one begins


class Forecast(NamedTuple):
    """The seconds of an optimizer step, of all steps that are to come (inf without a limit), and of all evaluations."""

    step: float
    steps: float
    evaluations: float


def forecast(trainer: Trainer, module: BaseModule) -> Forecast:
    """Returns how long the run will take from here, as trial steps on its first batch tell. All processes call it.

    The module, its gradients and the random streams stay as they are. A trial goes without the optimizer, the averages and the
    reading of images, which add a few per cent. Evaluations, such as samples, take the forward passes that their callbacks plan.
    The first trial, which warms up, is counted: `flops_per_image` of the module. A network that torch compiles is compiled before,
    and its forward passes are taken to be a third of its steps: those of samples are compiled when they come, for other sizes.
    """
    batch = {name: value.to(module.device) for name, value in image_data(trainer).first_batch().items()}
    left = trainer.estimated_stepping_batches - trainer.global_step
    num_images = len(next(iter(batch.values())))

    def count() -> None:
        flops = count_flops(partial(try_step, trainer, module, batch))
        module.flops_per_image = None if flops is None else flops / num_images

    with trials(module):
        module.on_train_batch_start(batch, 0)
        act = partial(try_step, trainer, module, batch)
        if is_compiled(module):
            act()
        batch_step = median_seconds(act, module.device, first=count)
        num = planned_evaluations(trainer, module) / trainer.world_size if math.isfinite(left) else 0
        if is_compiled(module):
            forward = batch_step / 3
        else:
            with torch.no_grad():
                forward = median_seconds(lambda: try_forward(trainer, module, batch), module.device) if num else 0.0
    step = batch_step * trainer.accumulate_grad_batches
    return Forecast(step, step * left, forward * num / num_images)


@contextmanager
def trials(module: BaseModule) -> Iterator[None]:
    """Lets steps be tried inside: afterwards random streams, buffers and what the module knows of its batches are as before."""
    known = module.has_checked_images, module.batch_seed
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = [module.device] if module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        module.has_checked_images, module.batch_seed = known
        for buffer, content in buffers:
            buffer.copy_(content)


def is_compiled(module: BaseModule) -> bool:
    """Returns whether torch compiles parts of a module when they are first called."""
    return any(part._compiled_call_impl is not None for part in module.modules())


def try_forward(trainer: Trainer, module: BaseModule, batch: dict[str, Tensor]) -> Tensor:
    """Returns the loss of the batch in the run's precision."""
    with trainer.precision_plugin.forward_context():
        return module.training_step(batch, 0)["loss"]


def try_step(trainer: Trainer, module: BaseModule, batch: dict[str, Tensor]) -> None:
    """Computes the gradients of the batch and drops them; the other processes are not told, as they are in a real step."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    torch.autograd.grad(try_forward(trainer, module, batch), parameters, allow_unused=True)


def planned_evaluations(trainer: Trainer, module: BaseModule) -> int:
    """Returns how many images the network will evaluate in all that the callbacks do from here on."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return sum(callback.planned_evaluations(trainer, module) for callback in callbacks if isinstance(callback, RunCallback))


def median_seconds(act: Callable[[], object], device: torch.device, first: Callable[[], object] | None = None) -> float:
    """Returns the median time of TRIALS calls, after one more that is not measured; of fewer if these take longer than PATIENCE.

    first: what is called in place of `act` at first. All processes make the same number of calls, by the clock of the first one.
    """
    times: list[float] = []
    while len(times) < 1 + TRIALS and from_first(lambda: sum(times)) < PATIENCE:
        begin = time.perf_counter()
        (act if times or first is None else first)()
        wait_for(device)
        times.append(time.perf_counter() - begin)
    measured = sorted(times[1:] or times)
    return measured[len(measured) // 2]
