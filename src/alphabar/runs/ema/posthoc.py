"""Averages of weights after training: those that a run kept, and any length reconstructed from its power-function averages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.errors import UserError
from alphabar.runs.checkpoints.torch_files import load_torch_file
from alphabar.runs.ema.profiles import MAX_LENGTH, fit, gamma_of

FOLDER = "ema"
# Relative error of a profile. For weights that walk at random, the reconstruction is then off by a few hundredths of the distance
# between the average and the live weights.
MAX_ERROR = 0.05

Weights = dict[str, Tensor]


class StoredAverage(NamedTuple):
    """A power-function average of the weights up to `step`, of length sigma_rel."""

    step: int
    length: float
    weights: Weights


def snapshot_path(run_dir: Path, step: int) -> Path:
    """Returns the file with the averages of a run after `step`."""
    return run_dir / FOLDER / f"step_{step:07d}.ckpt"


def snapshots(run_dir: Path) -> dict[int, Path]:
    """Returns the files with averages of a run, by step in ascending order."""
    files = {path.stem.removeprefix("step_"): path for path in sorted((run_dir / FOLDER).glob("step_*.ckpt"))}
    return {int(step): path for step, path in files.items() if step.isdigit()}


def stored_averages(content: Mapping[str, Any]) -> list[StoredAverage]:
    """Returns the power-function averages in a checkpoint or a snapshot."""
    ema = content["ema"]
    records = [record for record in ema.get("averages", []) if "sigma_rel" in record]
    return [StoredAverage(ema["num_updates"], record["sigma_rel"], record["weights"]) for record in records]


def average_of_decay(content: Mapping[str, Any], decay: float) -> Weights:
    """Returns the exponential average with this decay in a checkpoint. Raises UserError if there is none."""
    kept = {record["decay"]: record["weights"] for record in content["ema"].get("averages", []) if "decay" in record}
    if decay not in kept:
        there = f"the exponential averages with {', '.join(map(str, kept))}" if kept else "no exponential average"
        raise UserError(f"ema_decay={decay}: the checkpoint has {there}; train with 'ema.more_decays=[{decay}]'")
    return kept[decay]


def average_of_length(content: Mapping[str, Any], checkpoint: Path, length: float) -> Weights:
    """Returns the power-function average of this length at the checkpoint's step, from the checkpoint and the snapshots of its run.

    Raises UserError if the run kept none, or none from which this length can be reconstructed.
    """
    step, folder = content["ema"]["num_updates"], checkpoint.absolute().parent.parent
    averages = stored_averages(content)
    if not averages:
        raise UserError(f"ema_length={length}: the checkpoint has no power-function averages to make it from; train with ema=power")
    earlier = {when: path for when, path in snapshots(folder).items() if when < step}
    if not earlier and length not in {average.length for average in averages}:
        raise UserError(f"ema_length={length}: there are no snapshots before step {step} in {folder / FOLDER} to make it from")
    for path in earlier.values():
        snapshot = load_torch_file(path, f"ema_length={length}: {path}", in_memory=False)
        if not isinstance(snapshot, dict) or "ema" not in snapshot:
            raise UserError(f"ema_length={length}: {path}: not a snapshot of averages")
        averages += stored_averages(snapshot)
    shapes = {name: weight.shape for name, weight in content["ema"]["weights"].items()}
    if any({name: weight.shape for name, weight in average.weights.items()} != shapes for average in averages):
        raise UserError(f"ema_length={length}: the averages in {folder / FOLDER} are of another network")
    return reconstruct(averages, length, step)


def reconstruct(averages: Sequence[StoredAverage], length: float, step: int) -> Weights:
    """Returns the average of this length after `step` as a combination of those up to then, or the average itself if it is there.

    Raises UserError unless its profile is a combination of theirs with a relative error of at most MAX_ERROR.
    """
    averages = [average for average in averages if average.step <= step]
    if not averages:
        raise UserError(f"ema_length={length}: no averages were kept up to step {step}")
    for average in averages:
        if (average.step, average.length) == (step, length):
            return average.weights
    steps = torch.tensor([average.step for average in averages], dtype=torch.float64)
    gammas = torch.tensor([gamma_of(average.length) for average in averages], dtype=torch.float64)
    coefficients, errors = fit(steps, gammas, step, torch.tensor([gamma_of(length)], dtype=torch.float64))
    if errors[0] > MAX_ERROR:
        possible = " or ".join(reachable_lengths(steps, gammas, step, {average.length for average in averages})) or "none"
        raise UserError(
            f"ema_length={length}: need a length within reach of the {len(averages)} averages that the run kept up to step {step}: "
            f"{possible}; snapshots that come closer together (callbacks.snapshots.every_n_steps) reach further"
        )
    total = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in averages[0].weights.items()}
    for coefficient, average in zip(coefficients[:, 0].tolist(), averages, strict=True):
        for name, weight in average.weights.items():
            total[name] += coefficient * weight.double()
    return {name: weight.float() for name, weight in total.items()}


def reachable_lengths(steps: Tensor, gammas: Tensor, step: int, kept: set[float]) -> list[str]:
    """Returns the lengths that can be reconstructed, to three digits, as ranges: ["0.018 to 0.253"]."""
    lengths = sorted({index / 1000 for index in range(1, int(1000 * MAX_LENGTH) + 1)} | kept)
    errors = fit(steps, gammas, step, torch.tensor([gamma_of(length) for length in lengths], dtype=torch.float64)).errors
    ranges: list[list[float]] = []
    was_good = False
    for length, error in zip(lengths, errors.tolist(), strict=True):
        is_good = error <= MAX_ERROR
        if is_good and was_good:
            ranges[-1][-1] = length
        elif is_good:
            ranges.append([length, length])
        was_good = is_good
    return [f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in ranges]
