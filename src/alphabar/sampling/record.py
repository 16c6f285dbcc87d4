"""The record of a command that draws images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from alphabar.runs.processes.distributed import from_first
from alphabar.runs.provenance.current_command import command_config
from alphabar.runs.provenance.picture_record import PictureRecord, picture_record
from alphabar.runs.provenance.receipt import describe_start, recorded
from alphabar.sampling.pipeline import Pipeline


@contextmanager
def recorded_sampling(fabric: Fabric, pipeline: Pipeline) -> Iterator[tuple[dict[str, Any], PictureRecord]]:
    """Writes `receipt.json` into the folder of the command, at the beginning and at the end; only the first process does.

    Yields its entry, to which results are added, and the record of the pictures, the same on all processes.
    """
    if not fabric.is_global_zero:
        yield {}, from_first(lambda: record_of_pictures(pipeline, {}))
        return
    folder = Path(pipeline.settings.run_dir)
    details = {"config": command_config(), **pipeline.record(), "seed": pipeline.settings.seed}
    with recorded(folder, describe_start(folder, fabric.device, fabric.world_size, details)) as start:
        yield start, from_first(lambda: record_of_pictures(pipeline, start))


def record_of_pictures(pipeline: Pipeline, start: Mapping[str, Any]) -> PictureRecord:
    """Returns the record of the pictures that a pipeline draws, given the entry of the receipt."""
    stages = start["checkpoints"]
    return picture_record(
        {
            "Checkpoint": " | ".join(f"{each['checkpoint']} sha256 {each['sha256']} step {each['step']}" for each in stages),
            "Step": stages[-1]["step"],
            "Weights": pipeline.settings.weights_label,
            "Sampler": repr(pipeline.sampler),
            "Guidance": None if pipeline.settings.guidance is None else repr(pipeline.settings.guidance),
            "Seed": pipeline.settings.seed,
        }
    )
