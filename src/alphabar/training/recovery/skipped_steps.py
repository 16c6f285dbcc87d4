"""nonfinite.csv in the folder of a run: what repeats a step that was skipped since its loss or gradient was not finite."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from alphabar.data.datamodule import ImageDataModule
from alphabar.files.atomic import write_text
from alphabar.runs.metrics_csv import rows_to_go_on_with
from alphabar.runs.processes.distributed import rank_and_size

FILE = "nonfinite.csv"
COLUMNS = ("step", "rank", "batch", "seed", "loss", "grad_norm", "num_nonfinite", "images", "levels")
MAX_ROWS = 1000  # of the file

Row = dict[str, str]


class SeenBatch(NamedTuple):
    """A batch of this process: its number in the order of the data, the seed of its noise, its loss.

    losses, levels: [B]; see `BaseModule.training_step`.
    """

    number: int
    seed: int | None
    loss: Tensor
    losses: Tensor
    levels: Tensor | None


class SeenStep(NamedTuple):
    """An optimizer step, counted from 1: the norm of its gradient, on the device, and the batches of this process."""

    step: int
    grad_norm: Tensor
    batches: tuple[SeenBatch, ...]


def batch_rows(step: SeenStep, data: ImageDataModule) -> list[Row]:
    """Returns a row for each batch of this process in a step.

    It has the step, the rank, the number of the batch, the seed of its noise, the loss, the norm of the step's gradient, the number
    of images whose loss is not finite, and the indices and the noise levels of all images.
    """
    rows = []
    for batch in step.batches:
        cells = {
            "step": step.step,
            "rank": rank_and_size()[0],
            "batch": batch.number,
            "seed": batch.seed,
            "loss": f"{float(batch.loss):.6g}",
            "grad_norm": f"{float(step.grad_norm):.6g}",
            "num_nonfinite": int((~batch.losses.isfinite()).sum()),
            "images": " ".join(map(str, data.batch_indices(batch.number).tolist())),
            "levels": "" if batch.levels is None else " ".join(f"{level:.6g}" for level in batch.levels.tolist()),
        }
        rows.append({name: str(value) for name, value in cells.items()})
    return rows


def add_rows(rows: list[Row], folder: Path) -> None:
    """Adds the rows of all processes, by step, as long as the file has no more than MAX_ROWS; all processes call it."""
    rank, world_size = rank_and_size()
    everyone = [rows] * world_size
    if world_size > 1:
        dist.all_gather_object(everyone, rows)
    if rank == 0:
        together = sorted((row for each in everyone for row in each), key=lambda row: int(row["step"]))
        write_rows([*rows_so_far(folder), *together][:MAX_ROWS], folder)


def keep_rows_until(step: int, folder: Path) -> None:
    """Removes the rows of later steps, which a resumed run will write again."""
    rows = rows_so_far(folder)
    kept = [row for row in rows if int(row["step"]) <= step]
    if len(kept) < len(rows):
        write_rows(kept, folder)


def rows_so_far(folder: Path) -> list[Row]:
    """Returns the rows of the file, none if there is no such file or it is damaged; see `rows_to_go_on_with`."""
    return rows_to_go_on_with(folder / FILE, COLUMNS)


def write_rows(rows: list[Row], folder: Path) -> None:
    """Replaces the file by one with these rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
    write_text(folder / FILE, text.getvalue())
