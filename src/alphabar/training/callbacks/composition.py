"""The lines at the beginning of a run that list its parts."""

import math
from collections.abc import Mapping
from datetime import MAXYEAR, datetime, timedelta

import torch
from lightning.pytorch import LightningModule, Trainer

from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import printable
from alphabar.progress import counted, format_duration
from alphabar.speed import Speed
from alphabar.training.callbacks import RunCallback
from alphabar.training.callbacks.forecast import Forecast, forecast
from alphabar.training.flops import compute_dtype, format_flops, peak_rate
from alphabar.training.hooks import base_module, image_data
from alphabar.training.modules.base import BaseModule
from alphabar.training.speed import describe_speed

DAY, YEAR = 24 * 3600, 365 * 24 * 3600  # seconds
COLORS = {1: "grey", 3: "RGB", 4: "RGBA"}


class Composition(RunCallback):
    """Prints data, network, method, device, speed, steps and the expected time before training starts.

    The first process prints; all processes take part in the trial steps of the forecast.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print_lines(composition_lines(trainer, base_module(pl_module)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step < trainer.estimated_stepping_batches:
            times = forecast(trainer, base_module(pl_module))
            if trainer.is_global_zero:
                print_lines(describe_flops(trainer, base_module(pl_module), times.step) | describe_time(times, trainer))


def composition_lines(trainer: Trainer, module: BaseModule) -> dict[str, str]:
    """Returns the lines on the parts of a run by their subjects: data, preset, network, method, device, speed and steps."""
    data = image_data(trainer)
    return {
        "data": describe_data(data),
        **data.remarks,
        **describe_choices(module.config.get("choices")),
        **module.composition,
        **({} if module.warm_start is None else {"init_from": module.warm_start}),
        **describe_training(trainer, data.batch_size, module.speed),
    }


def print_lines(lines: Mapping[str, str]) -> None:
    """Prints lines with their names."""
    for name, text in lines.items():
        print(printable(f"  {name:<10} {text}"), flush=True)


def describe_data(data: ImageDataModule) -> str:
    """Returns the number of training images, their size and their metadata: "797 images 8x8 grey, 10 classes (Digits)"."""
    channels, height, width = data.shape
    parts = [f"{len(data.train_set):,} images {height}x{width} {COLORS.get(channels, f'of {channels} channels')}"]
    if data.bits != 8:
        parts.append(f"{data.bits} bits, of which pictures and features show 8")
    if data.classes is not None:
        parts.append(f"{len(data.classes)} classes")
    if data.captions is not None:
        parts.append(f"{len(data.captions):,} captions")
    if data.train_set.vectors is not None:
        parts.append(f"vectors of {data.train_set.vectors.shape[1]}")
    return f"{', '.join(parts)} ({data.title})"


def describe_choices(choices: object) -> dict[str, str]:
    """Returns the line of the preset and its choices: "digits (method=ddpm, network=unet_tiny, ...)".

    choices: the choice of each group by its name; runs of earlier versions have none, and those of others may have anything.
    """
    if not isinstance(choices, Mapping) or "preset" not in choices:
        return {}
    chosen = [f"{group}={choices[group]}" for group in ("method", "network", "features", "recipe") if group in choices]
    return {"preset": f"{choices['preset']} ({', '.join(chosen)})"}


def describe_training(trainer: Trainer, batch_size: int, speed: Speed) -> dict[str, str]:
    """Returns the lines of device, speed and steps; batch_size: of each process."""
    processes, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    device = describe_device(trainer.strategy.root_device)
    limits = {"step": trainer.max_steps, "epoch": trainer.max_epochs or -1}
    known = [counted(number, name) for name, number in limits.items() if number > 0]
    return {
        "device": f"{device} x {processes}" if processes > 1 else device,
        "speed": describe_speed(speed, trainer.strategy.root_device, trainer.max_steps if trainer.max_steps > 0 else None),
        "steps": f"{' or '.join(known) or 'no limit'}, {batch_size * processes * accumulated:,} images a step",
    }


def describe_device(device: torch.device) -> str:
    """Returns a device as people know it: "cuda (NVIDIA H200)", "cpu (2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else device.type


def describe_end(seconds: float) -> str:
    """Returns when something that takes so many seconds ends: "14:05", "Tue 01 Dec 14:05", "May 2031" or "the year 9999"."""
    now = datetime.now()
    try:
        end = now + timedelta(seconds=seconds)
    except OverflowError:
        return f"the year {MAXYEAR}"
    if end.date() == now.date():
        return f"{end:%H:%M}"
    return f"{end:%a %d %b %H:%M}" if seconds < YEAR else f"{end:%b} {end.year}"


def describe_flops(trainer: Trainer, module: BaseModule, seconds: float) -> dict[str, str]:
    """Returns the line on the FLOPs of an image in a step, and on the MFU of trial steps of so many seconds; none without FLOPs."""
    if module.flops_per_image is None:
        return {}
    peak = peak_rate(trainer.strategy.root_device, compute_dtype(trainer))
    images = image_data(trainer).batch_size * trainer.accumulate_grad_batches
    mfu = module.flops_per_image * images / seconds / peak.flops
    return {"compute": f"{format_flops(module.flops_per_image)} an image, MFU {mfu:.0%} of {peak}"}


def describe_time(times: Forecast, trainer: Trainer) -> dict[str, str]:
    """Returns the line on the expected time of the run, and advice if that is more than a day on a CPU."""
    pace = f"{format_duration(times.step)} a step"
    if not math.isfinite(times.steps):
        return {"time": pace}
    total = times.steps + times.evaluations
    evaluations = f" and {format_duration(round(times.evaluations))} for samples and figures" if times.evaluations > 0 else ""
    lines = {"time": f"{pace}: about {format_duration(round(times.steps))}{evaluations}, until {describe_end(total)}"}
    if total > DAY and trainer.strategy.root_device.type == "cpu":
        lines["faster"] = "preset=laptop is made for CPUs; so are trainer.max_steps=N, data.resolution=32, network=unet_light"
    return lines
