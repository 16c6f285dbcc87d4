"""A trial of a model before its run, in which the parts of somebody else are copies, and no random state is moved."""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import TypeVar

from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from alphabar.config.foreign_code import explaining_foreign_errors
from alphabar.diffusion.denoiser import Cond, NetworkDenoiser
from alphabar.diffusion.description import describe_tensors
from alphabar.diffusion.noise import SINGLE_PROCESS
from alphabar.errors import UserError
from alphabar.models.conditioners import Conditioner
from alphabar.runs.folders.run_dir import is_first_process
from alphabar.sampling.sampling_job import NUM_TRIED

log = logging.getLogger(__name__)
P = TypeVar("P", bound=nn.Module)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode inside the context; each of its submodules has its own mode again afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, is_training in modes.items():
            part.training = is_training


def copied(part: P) -> P:
    """Returns a copy of a part, for a trial that may change it: buffers, weights that depend on the first batch, attributes.

    A part that cannot be copied is returned itself, with a line in the log.
    """
    # Tensors that were computed, such as those of torch.nn.utils.weight_norm, refuse to be copied.
    values = [value for module in part.modules() for value in vars(module).values()]
    computed = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    try:
        return deepcopy(part, {id(value): value.detach().clone() for value in computed})
    except Exception as error:  # of any kind: classes of somebody else may hold anything
        tell_once(f"{type(part).__name__} cannot be copied ({type(error).__name__}: {error}): it is tried itself before the run")
        return part


@cache
def tell_once(line: str) -> None:
    """Logs a warning, the first time that it is called with this line."""
    if is_first_process():
        log.warning("%s", line)


@contextmanager
def trial(denoiser: NetworkDenoiser, conditioner: Conditioner, others: Mapping[str, nn.Module]) -> Iterator[None]:
    """Makes UserError of an error that somebody else's part raises inside, with what network and conditioner were given.

    others: further parts, by their keys. The random states are restored afterwards. Raises UserError, too, for a network whose
    output is no tensor.
    """
    network, given = denoiser.network, dict[str, str]()
    parts = {"network": network, "schedule": denoiser.schedule, "conditioner": conditioner, **others}

    def note(part: nn.Module, args: tuple[object, ...]) -> None:
        key, names = ("network", ("x", "label", "cond")) if part is network else ("conditioner", ("batch",))
        given[key] = ", ".join(f"{name} {describe_tensors(value)}" for name, value in zip(names, args, strict=False))

    def must_be_tensor(part: nn.Module, args: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            name = type(part).__name__
            raise UserError(f"network: need a network whose output is a tensor, {name} gives {describe_tensors(output)}")

    hooks = [part.register_forward_pre_hook(note) for part in (network, conditioner)]
    hooks.append(network.register_forward_hook(must_be_tensor))
    try:
        with isolate_rng(include_cuda=False), explaining_foreign_errors(parts, given):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def tried_null(conditioner: Conditioner) -> Cond:
    """Returns the null condition of the images of a trial. Raises UserError if it is none."""
    return must_be_condition(conditioner, "null", conditioner.null(NUM_TRIED))


def tried_forward(conditioner: Conditioner, batch: Mapping[str, Tensor]) -> Cond:
    """Returns the condition of a batch of `NUM_TRIED` in eval mode, after one as in training. Raises UserError if one is none."""
    try:
        (call := inspect.signature(conditioner.forward)).bind(batch, SINGLE_PROCESS)
    except TypeError:
        name = type(conditioner).__name__
        raise UserError(f"conditioner: need one that is called as conditioner(batch, share), {name}.forward takes {call}") from None
    must_be_condition(conditioner, "forward", conditioner(batch, SINGLE_PROCESS))
    with evaluation_mode(conditioner):
        return must_be_condition(conditioner, "forward", conditioner(batch))


def must_be_condition(conditioner: Conditioner, method: str, made: object) -> Cond:
    """Returns what a method made of the images of a trial. Raises UserError unless it is a condition of as many."""
    if made is None:
        return None
    values = list(made.values()) if isinstance(made, Mapping) else [None]
    if all(isinstance(value, Tensor) and value.shape[:1] == (NUM_TRIED,) for value in values):
        return made  # type: ignore[return-value]
    raise UserError(
        f"conditioner: {type(conditioner).__name__}.{method} gives {describe_tensors(made)} for {NUM_TRIED} images: need None, or "
        f"tensors [{NUM_TRIED}, ...] by their names, such as {{vector: float32 [{NUM_TRIED}, D]}}"
    )


def widths(cond: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Returns the sizes of each condition by its name, without the number of images and, of tokens, their own."""
    return {name: list(value.shape[2 if value.ndim == 3 else 1 :]) for name, value in cond.items() if name != "mask"}
