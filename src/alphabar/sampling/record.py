"""The record of a command that draws images."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from alphabar.runs.current_command import command_config
from alphabar.runs.receipt import describe_start, recorded
from alphabar.sampling.pipeline import Pipeline


@contextmanager
def recorded_sampling(fabric: Fabric, pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """Writes `receipt.json` into the folder of the command, at the beginning and at the end; only the first process does.

    Yields its entry, to which results are added.
    """
    if not fabric.is_global_zero:
        yield {}
        return
    folder = Path(pipeline.settings.run_dir)
    details = {"config": command_config(), **pipeline.record(), "seed": pipeline.settings.seed}
    with recorded(folder, describe_start(folder, fabric.device, fabric.world_size, details)) as start:
        yield start
