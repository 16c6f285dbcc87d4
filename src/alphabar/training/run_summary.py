"""The result of a run, and the lines at its end: what came out, which files were written, how to go on."""

import re
import shlex
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import WandbLogger

from alphabar.files.paths import display_path
from alphabar.progress import counted, format_duration
from alphabar.runs.floor import MEAN_FID, FloorPair, against_floor, floor_pair
from alphabar.runs.provenance.current_command import with_invocations
from alphabar.runs.run_speed import RunSpeed, run_speed
from alphabar.training.modules.base import BaseModule

LAST = "checkpoints/last.ckpt"
FILES = {
    "figures": ("metrics.csv", "config.yaml"),
    "checkpoints": ("checkpoints/",),
    "pictures": ("samples/", "film.png", "film.gif", "curves.png", "memorisation.png"),
}


def run_result(trainer: Trainer, module: BaseModule, seconds: float) -> dict[str, object]:
    """Returns the result of a run for the sweep or the process that started it."""
    figures = module.figures
    name = next((name for name in figures if name.startswith("fid/n")), None)
    pair = floor_pair(name, figures) if name else None
    floor = pair.floor if pair and not pair.is_mean else None
    fid = {"name": name, "value": figures[name], "floor": floor} if name else None
    loss, images, trained = (figures.get(f"train/{name}") for name in ("loss", "images", "seconds"))
    return {
        "loss": loss,
        "fid": fid,
        **({MEAN_FID: pair._asdict()} if pair and pair.is_mean else {}),
        "objective": fid["value"] if fid else module.sweep_objective(),
        "images_per_second": images / trained if images and trained else None,
        "steps": trainer.global_step,
        "seconds": seconds,
        "folder": str(trainer.default_root_dir),
        "wandb": next((logger.version for logger in trainer.loggers if isinstance(logger, WandbLogger)), None),
    }


def report_end(result: dict[str, Any], trainer: Trainer, module: BaseModule, first_step: int) -> None:
    """Prints the figures of a run that ended, the files that are there, and the commands that can follow.

    first_step: the optimizer step from which the run was started or resumed.
    """
    limit = limit_reached(trainer)
    if result["steps"] > first_step:
        print(result_line(result))
        print_speed(run_speed(module.figures.get))
    else:
        is_late = timer_that_ended(trainer) is not None
        reason = "no step was taken: the time was over" if is_late else f"nothing to do: already at step {first_step:,}"
        print(f"{reason}{f' ({limit[0]})' if limit else ''}")
    folder = Path(result["folder"])
    for label, names in FILES.items():
        if found := [name for name in names if (folder / name).exists()]:
            print(f"  {label:<12} {display_path(folder)}/{'  '.join(found)}")
    for step in module.next_steps:
        if (folder / step.needs).exists():
            print(f"  {step.label:<12} {in_folder(step.command, folder)}")
    if (folder / LAST).exists():
        print(f"  {'go on':<12} {in_folder('python train.py resume={folder}', folder)}{f' {limit[1]}' if limit else ''}")


def print_speed(speed: RunSpeed) -> None:
    """Prints the speed of a run and, if there is any, advice on it."""
    for label, text in (("throughput", speed.line()), ("faster", speed.advice())):
        if text:
            print(f"  {label:<12} {text}")


def report_stop(trainer: Trainer, module: BaseModule) -> None:
    """Prints, of a run that a signal stopped, its speed, the checkpoint that it left and the command to go on."""
    folder = Path(trainer.default_root_dir)
    if not (folder / LAST).exists():
        print(f"stopped at step {trainer.global_step:,}, without a checkpoint", flush=True)
        return
    print(f"stopped at step {trainer.global_step:,}")
    print_speed(run_speed(module.figures.get))
    print(f"  {'checkpoint':<12} {display_path(folder / LAST)}")
    print(f"  {'go on':<12} {in_folder('python train.py resume={folder}', folder)}", flush=True)


def result_line(result: dict[str, Any]) -> str:
    """Returns the first line of the report: steps, seconds, loss and FID."""
    line = f"done: {counted(result['steps'], 'step')} in {format_duration(result['seconds'])}"
    if result["loss"] is not None:
        line += f", loss {result['loss']:.4f}"
    if result["fid"] is not None:
        value, floor = result["fid"]["value"], result["fid"]["floor"]
        line += f", {result['fid']['name']} {value:.3g}"
        words = against_floor(value, floor) or "the floor"
        line += f" ({words} of held-out images, {floor:.3g})" if floor is not None else ""
    if result.get(MEAN_FID) is not None:
        pair = FloorPair(**result[MEAN_FID])
        floor = f"{pair.words or 'the floor'} of as many held-out images, {pair.floor:.3g}"
        line += f" (of {pair.num:,} at a time {pair.value:.3g}, {floor})"
    return line


def limit_reached(trainer: Trainer) -> tuple[str, str] | None:
    """Returns the override that ended the run and one that lets it go on; None if something else ended it."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps={trainer.max_steps}", f"trainer.max_steps={2 * trainer.global_step}"
    epochs = trainer.max_epochs
    if epochs is not None and 0 < epochs <= trainer.current_epoch:
        return f"trainer.max_epochs={epochs}", f"+trainer.max_epochs={2 * trainer.current_epoch}"
    if timer := timer_that_ended(trainer):
        elapsed = timer.time_elapsed()
        duration = elapsed + (timer.time_remaining() or 0.0)
        return f"trainer.max_time={clock(duration)}", f"+trainer.max_time={clock(2 * max(duration, elapsed))}"
    return None


def timer_that_ended(trainer: Trainer) -> Timer | None:
    """Returns the timer of `trainer.max_time` if its time is over."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    remaining = ((timer, timer.time_remaining()) for timer in timers)
    return next((timer for timer, seconds in remaining if seconds is not None and seconds <= 0), None)


def clock(seconds: float) -> str:
    """Returns a duration as DD:HH:MM:SS, as the Trainer reads it."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}"


def in_folder(command: str, folder: Path) -> str:
    """Returns the command as this process is called, with the run's folder in place of {folder}.

    Words are quoted where a shell would take them for something else.
    """
    path, command = display_path(folder), with_invocations(command)

    def located(match: re.Match[str]) -> str:
        file = path + match[1]
        return file if shlex.quote(path) == path else '"' + file.replace('"', r"\"") + '"'  # to Hydra, = and , mean something

    words = ((word, re.sub(r"\{folder\}([\w./-]*)", located, word)) for word in command.split())
    return " ".join(word if word == filled else shlex.quote(filled) for word, filled in words)
