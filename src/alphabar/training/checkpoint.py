"""Reading checkpoints: a denoiser to sample from, out of a file."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf

from alphabar.errors import UserError
from alphabar.training.config import build, check
from alphabar.training.data import Shape
from alphabar.training.module import DiffusionModule
from alphabar.training.posthoc import of_decay, of_length
from alphabar.training.stored import content_of


class Loaded(NamedTuple):
    """A module with the weights of a checkpoint, in eval mode on the CPU, and what it was trained with."""

    module: DiffusionModule
    config: DictConfig
    shape: Shape
    step: int


def read(path: str | Path) -> dict[str, Any]:
    """The content of a training checkpoint; nothing in it is executed. Raises UserError if it is not one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint={path}: no such file; a run keeps its own in checkpoints/last.ckpt and best.ckpt")
    content = content_of(path, f"checkpoint={path}")
    missing = {"state_dict", "config", "global_step"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise UserError(f"checkpoint={path}: not a checkpoint of alphabar, it has no {', '.join(sorted(missing))}")
    return content


def load(
    path: str | Path, weights: Literal["ema", "raw"], ema_length: float | None = None, ema_decay: float | None = None
) -> Loaded:
    """The module of a checkpoint with its averaged or its live weights.

    ema_length, ema_decay: see `of_length` and `of_decay`; None: the average that the run itself used.
    Raises UserError if the file is not a checkpoint, has no such averaged weights, or holds weights of another network.
    """
    content = read(path)
    config = OmegaConf.create(content["config"])
    assert isinstance(config, DictConfig)
    check(OmegaConf.create({"module": config.module}))  # only this is built; loggers and callbacks may not be installed here
    module = build(config.module)
    if not isinstance(module, DiffusionModule):
        raise UserError(f"checkpoint={path}: not of a diffusion model, it is one of {type(module).__name__}")
    state = content["state_dict"]
    if weights == "ema":
        if "ema" not in content:
            raise UserError(f"checkpoint={path}: has no averaged weights; use weights=raw")
        if ema_length is not None:
            averages = of_length(content, Path(path), ema_length)
        else:
            averages = content["ema"]["weights"] if ema_decay is None else of_decay(content, ema_decay)
        state = state | averages
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"checkpoint={path}: its weights do not fit its configuration ({str(error).splitlines()[0]})") from error
    shape = Shape(config.shape.channels, config.shape.resolution)
    return Loaded(module.eval().requires_grad_(False), config, shape, content["global_step"])
