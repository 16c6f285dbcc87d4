"""The checkpoints that a run keeps, the last and the best ones: which of them are whole, and what a kill left half done."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from alphabar.errors import UserError
from alphabar.files.paths import display_path, unused_path
from alphabar.files.versions import existing_versions, link_or_copy, version_path
from alphabar.runs.checkpoint import Shapes, read_checkpoint, weight_shapes
from alphabar.runs.run_dir import LAST_CHECKPOINT
from alphabar.runs.torch_files import load_torch_file

log = logging.getLogger(__name__)
BEST_CHECKPOINT = "checkpoints/best.ckpt"
UNNAMED = ".new.ckpt"  # in the same folder: a checkpoint that is whole and has not got its name yet


class LastCheckpoint(NamedTuple):
    """A checkpoint from which a run goes on, its optimizer step, its configuration, and the shapes of its weights."""

    path: Path
    step: int
    config: dict[str, Any]
    weights: Shapes


def newest_checkpoint(folder: Path) -> LastCheckpoint:
    """Returns the newest of the last checkpoints of a run that is whole; warns if it is an earlier one than last.ckpt.

    Changes nothing on the disk: other processes of the run may be reading. Raises UserError if there is none.
    """
    last, problem = folder / LAST_CHECKPOINT, None
    for path in existing_versions(last).values() or [last]:
        try:
            content = read_checkpoint(path)
        except UserError as error:
            problem = problem or error
            continue
        step = content["global_step"]
        if path != last:
            reason = problem or f"{display_path(last)} is missing"
            log.warning("%s: going on from %s, step %d; what was trained after it is trained again", reason, path.name, step)
        return LastCheckpoint(path, step, content["config"], weight_shapes(content["state_dict"]))
    raise problem or UserError(f"{display_path(folder)}: has no checkpoint")


def make_last(used: Path, folder: Path) -> None:
    """Makes `used`, a checkpoint of the run from which it goes on, its last one.

    The newer ones, which are damaged, are renamed to NAME.damaged: they are neither lost nor counted among the earlier ones.
    """
    last = folder / LAST_CHECKPOINT
    newer: list[Path] = []
    for path in existing_versions(last).values():
        if path.samefile(used):
            break
        newer.append(path)
    else:
        return  # it is none of the last checkpoints
    for path in newer:
        link_or_copy(path, damaged_name(path))
    if newer or not last.exists():
        link_or_copy(used, last)
    for path in newer:
        if path != last:
            path.unlink()


def damaged_name(path: Path) -> Path:
    """Returns a name beside a damaged file under which it is kept, and which is not in use."""
    return unused_path(path.with_name(f"{path.name}.damaged"))


def take_up_best(folder: Path) -> list[float]:
    """Returns the FIDs of the best checkpoints that are there, by rank, and closes gaps between the ranks.

    The files and not the last checkpoint say what the best ones are: a kill may have come after one was written. One that cannot
    be read is renamed to NAME.damaged, and a line says so.
    """
    best, fids, names = folder / BEST_CHECKPOINT, [], list[Path]()
    for path in existing_versions(best).values():
        try:
            state = load_torch_file(path, display_path(path), in_memory=False)["callbacks"]["Checkpoints"]
            fid = float(state.get("fid", state["best"]))  # earlier versions kept one best checkpoint
        except (UserError, KeyError, TypeError) as error:
            os.replace(path, aside := damaged_name(path))
            log.warning("%s: renamed to %s, a new best checkpoint will take its place", error, aside.name)
            continue
        if names and path.samefile(names[-1]):  # a kill came between two renames
            path.unlink()
            continue
        os.replace(path, version_path(best, len(names)))
        names.append(version_path(best, len(names)))
        fids.append(fid)
    return fids


def remove_unfinished(folder: Path) -> None:
    """Deletes what a process that was killed while it wrote a checkpoint left behind; no other process may be writing one."""
    checkpoints = (folder / LAST_CHECKPOINT).parent
    for path in (checkpoints / UNNAMED, *checkpoints.glob(".*.ckpt.*.tmp")):
        path.unlink(missing_ok=True)
