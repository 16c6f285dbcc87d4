"""The group `speed` of a run's configuration is completed for the machine on which the run begins."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from alphabar.errors import UserError
from alphabar.runs.folders.run_dir import AUTO, is_first_process, readable_config
from alphabar.speed import Speed, device_of, fastest, possible, reason_not_to_compile

NEEDS = {int: "a number of threads, 0 for as many as torch takes", bool: "true or false"}


def choose_speed(cfg: DictConfig) -> Speed:
    """Returns the speed of a run, and sets it in place of each null in the group `speed`, so that a run goes on with it elsewhere.

    A run that resume=auto goes on with has the choice in its folder; one of an earlier version has its precision alone. A resumed
    run chooses anew what the command line sets to null. Raises UserError for a value that is none.
    """
    given, precision = cfg.get("speed"), cfg.trainer.precision
    if given is None:
        return Speed(str(precision))
    check_values(given)
    device = device_of(str(cfg.trainer.accelerator))
    if None in (precision, *(given.get(key) for key in Speed._fields if key != "precision")):
        chosen = {key: given[key] for key in Speed._fields if given.get(key) is not None}
        if precision is not None:
            chosen["precision"] = str(precision)
        found = stored_speed(cfg) or fastest(device, num_processes(cfg), steps_of(cfg), chosen)
        given.update({key: value for key, value in found._asdict().items() if given.get(key) is None})
    given.precision = str(given.precision if precision is None else precision)
    cfg.trainer.precision = given.precision
    return possible(Speed(**{key: given[key] for key in Speed._fields}), device, is_first_process())


def stored_speed(cfg: DictConfig) -> Speed | None:
    """Returns the speed of the run that resume=auto goes on with, or None if there is none; it is that of its config.yaml."""
    earlier = readable_config(Path(cfg.run_dir)) if cfg.resume == AUTO else None
    if earlier is None:
        return None
    if earlier.get("speed") is None:
        return Speed(str(OmegaConf.select(earlier, "trainer.precision")))
    check_values(earlier.speed)
    return Speed(**{key: earlier.speed[key] for key in Speed._fields if earlier.speed.get(key) is not None})


def check_values(given: object) -> None:
    """Raises UserError for a group `speed` that is none, and for a key or a value in it that is none."""
    if not isinstance(given, DictConfig):
        raise UserError(f"speed={given}: need a group with the keys {', '.join(Speed._fields)}, such as speed=auto or speed=off")
    if unknown := sorted({str(key) for key in given} - set(Speed._fields)):
        raise UserError(f"speed.{unknown[0]}: there is no such key; need one of {', '.join(Speed._fields)}")
    for key in Speed._fields:
        if OmegaConf.is_missing(given, key):
            raise UserError(f"speed.{key}: has no value")
        kind, value = (
            {"precision": object, "threads": int}.get(key, bool),
            given.get(key),
        )  # the Trainer's precision is checked with it
        if value is not None and kind is not object and (type(value) is not kind or value < 0):
            raise UserError(f"speed.{key}={value}: need {NEEDS[kind]}, or null for what is fastest")


def describe_speed(speed: Speed, device: torch.device, num_steps: int | None) -> str:
    """Returns the line on the speed of a run: "bf16-mixed, channels_last, compiled: no (pays from 6,000 steps)"."""
    if speed == Speed():
        return str(speed)
    reason = None if speed.compile else reason_not_to_compile(device, num_steps)
    return str(speed) if speed.compile else f"{speed}, compiled: no{'' if reason is None else f' ({reason})'}"


def steps_of(cfg: DictConfig) -> int | None:
    """Returns the number of steps of a run, or None if it ends after epochs, after a time or never."""
    steps = cfg.trainer.get("max_steps")
    return steps if isinstance(steps, int) and steps > 0 else None


def num_processes(cfg: DictConfig) -> int:
    """Returns whether one process trains: 1, or more than one, where others start them or the Trainer does."""
    is_one = cfg.trainer.devices in (1, "1") and cfg.trainer.num_nodes == 1 and os.environ.get("WORLD_SIZE", "1") == "1"
    return 1 if is_one else 2
