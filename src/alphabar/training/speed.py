"""What a run's configuration leaves open of its speed, filled in for the machine on which it begins."""

import logging
import os
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from alphabar.errors import UserError
from alphabar.runs.folders.run_dir import is_first_process, readable_config
from alphabar.speed import BFLOAT16, Speed, device_of, fastest, has_bfloat16_units, reason_not_to_compile

log = logging.getLogger(__name__)


def choose_speed(cfg: DictConfig) -> Speed:
    """Returns the speed of a run, and sets it in place of each null in the group `speed`, so that a run goes on with it elsewhere.

    A run that resume=auto goes on with has the choice in its folder; one of an earlier version has its precision alone.
    Raises UserError for a value that is none.
    """
    given = cfg.get("speed")
    if not isinstance(given, DictConfig):
        return Speed(str(cfg.trainer.precision))
    check_values(given)
    if given.get("precision") is None and cfg.trainer.precision is not None:
        given.precision = cfg.trainer.precision
    if None in [given.get(key) for key in Speed._fields]:
        earlier = OmegaConf.select(readable_config(Path(cfg.run_dir)) or OmegaConf.create(), "speed")
        if isinstance(earlier, DictConfig):
            check_values(earlier)
        device, num_steps = device_of(str(cfg.trainer.accelerator)), steps_of(cfg)
        found = (
            fastest(device, num_processes(cfg), num_steps)
            if not isinstance(earlier, DictConfig)
            else Speed(**{str(key): value for key, value in earlier.items()})
        )
        given.update({key: value for key, value in found._asdict().items() if given.get(key) is None})
    speed = Speed(**{**given, "precision": str(cfg.trainer.precision)})
    if speed.precision == BFLOAT16 and device_of(str(cfg.trainer.accelerator)).type == "cpu" and not has_bfloat16_units():
        warn_of_imitation()
    return speed


def check_values(given: DictConfig) -> None:
    """Raises UserError for a key or a value of the group `speed` that is none."""
    if unknown := sorted(set(given) - set(Speed._fields)):
        raise UserError(f"speed.{unknown[0]}: there is no such key; need one of {', '.join(Speed._fields)}")
    for key in ("channels_last", "compile", "tf32", "keep_memory"):
        if given.get(key) not in (None, True, False):
            raise UserError(f"speed.{key}={given[key]}: need true, false or null, for what is fastest")
    threads = given.get("threads")
    if threads is not None and (not isinstance(threads, int) or threads < 0):
        raise UserError(f"speed.threads={threads}: need a number of threads, 0 for as many as torch takes, or null")


def warn_of_imitation() -> None:
    """Warns that this processor has no bfloat16."""
    if is_first_process():
        log.warning("precision=%s: this processor only imitates bfloat16, far slower than float32, which is speed=off", BFLOAT16)


def describe_speed(speed: Speed, device: torch.device, num_steps: int | None) -> str:
    """Returns the line on the speed of a run: "bf16-mixed, channels_last, compiled: no (pays from 6,000 steps)"."""
    if speed == Speed():
        return str(speed)
    reason = None if speed.compile else reason_not_to_compile(device, num_steps)
    return str(speed) if speed.compile else f"{speed}, compiled: no{'' if reason is None else f' ({reason})'}"


def steps_of(cfg: DictConfig) -> int | None:
    """Returns the number of steps of a run, or None if it ends after epochs, after a time or never."""
    steps = cfg.trainer.max_steps
    return steps if isinstance(steps, int) and steps > 0 else None


def num_processes(cfg: DictConfig) -> int:
    """Returns whether one process trains: 1, or more than one, where others start them or the Trainer does."""
    is_one = cfg.trainer.devices in (1, "1") and cfg.trainer.num_nodes == 1 and os.environ.get("WORLD_SIZE", "1") == "1"
    return 1 if is_one else 2
