"""The checkpoints that a run keeps, the last and the best ones: which of them are whole, and what a kill left half done."""

import logging
import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from alphabar.errors import UserError
from alphabar.files.atomic import remove_temporaries
from alphabar.files.paths import display_path, unused_path
from alphabar.files.versions import existing_versions, link_or_copy, version_path
from alphabar.runs.checkpoints.checkpoint import Shapes, read_checkpoint, weight_shapes
from alphabar.runs.checkpoints.torch_files import DamagedFile, load_torch_file
from alphabar.runs.folders.run_dir import BEST_CHECKPOINT, LAST_CHECKPOINT

log = logging.getLogger(__name__)
UNNAMED = ".new.ckpt"  # in the same folder: a checkpoint that is whole and has not got its name yet


class LastCheckpoint(NamedTuple):
    """A checkpoint from which a run goes on, its optimizer step, its configuration, and the shapes of its weights."""

    path: Path
    step: int
    config: dict[str, Any]
    weights: Shapes


def newest_checkpoint(folder: Path) -> LastCheckpoint:
    """Returns the newest of the last checkpoints of a run that is whole; warns if it is an earlier one than last.ckpt.

    Changes nothing on the disk: other processes of the run may be reading. Raises UserError, with what is left to do, if there is
    none.
    """
    last, problems = folder / LAST_CHECKPOINT, dict[Path, UserError]()
    for path in existing_versions(last).values() or [last]:
        try:
            content = read_checkpoint(path, in_memory=False)
        except UserError as error:
            problems[path] = error
            continue
        step = content["global_step"]
        if path != last:
            reason = problems.get(last, f"{display_path(last)} is missing")
            log.warning("%s: going on from %s, step %d; what was trained after it is trained again", reason, path.name, step)
        return LastCheckpoint(path, step, content["config"], weight_shapes(content["state_dict"]))
    others = f", nor can {', '.join(path.name for path in list(problems)[1:])} be read" if len(problems) > 1 else ""
    raise UserError(f"{next(iter(problems.values()))}{others}; {_way_out(folder)}")


def _way_out(folder: Path) -> str:
    """Returns what the user of a run can do of whose last checkpoints none is whole."""
    last = folder / LAST_CHECKPOINT
    for path in existing_versions(folder / BEST_CHECKPOINT).values():
        try:
            step = read_checkpoint(path, in_memory=False)["global_step"]
        except UserError:
            continue
        return f"to go on from {path.name}, step {step}: cp {shlex.quote(display_path(path))} {shlex.quote(display_path(last))}"
    return "no other checkpoint of the run is whole: start it anew"


def make_last(used: Path, folder: Path) -> None:
    """Makes `used`, a checkpoint of the run from which it goes on, its last one.

    The newer ones are renamed, see `set_aside_name`: they are neither lost nor counted among the earlier ones.
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
        link_or_copy(path, set_aside_name(path))
    if newer or not last.exists():
        link_or_copy(used, last)
    for path in newer:
        if path != last:
            path.unlink()


def set_aside_name(path: Path) -> Path:
    """Returns a name for a checkpoint from which a run does not go on: NAME.damaged, or NAME.unused for one that is whole."""
    try:
        load_torch_file(path, display_path(path), in_memory=False)
    except DamagedFile:
        return unused_path(path.with_name(f"{path.name}.damaged"))
    except UserError:
        pass
    return unused_path(path.with_name(f"{path.name}.unused"))


def take_up_best(folder: Path, keep: int) -> list[float]:
    """Returns the FIDs of the best checkpoints that are there, `keep` at most, by rank, and closes gaps between the ranks.

    The files and not the last checkpoint say what the best ones are: a kill may have come after one was written. One that is
    damaged is renamed to NAME.damaged, and a line says so. Other files, and all from the first on that is no best checkpoint of a
    run, stay as they are.
    """
    best, fids, names = folder / BEST_CHECKPOINT, [], list[Path]()
    for path in (path for rank, path in existing_versions(best).items() if rank < keep):
        try:
            content = load_torch_file(path, display_path(path), in_memory=False)
        except DamagedFile as error:
            os.replace(path, aside := set_aside_name(path))
            log.warning("%s: renamed to %s, a new best checkpoint will take its place", error, aside.name)
            continue
        except UserError:
            content = {}
        fid = fid_of_best(content)
        if fid is None:
            log.warning("%s: is no best checkpoint of a run; one with a better FID will take its place", display_path(path))
            break
        if names and path.samefile(names[-1]):  # a kill came between two renames
            path.unlink()
            continue
        os.replace(path, version_path(best, len(names)))
        names.append(version_path(best, len(names)))
        fids.append(fid)
    return fids


def fid_of_best(content: Any) -> float | None:
    """Returns the FID of a best checkpoint; None if the content of a file is not that of one."""
    try:
        state = content["callbacks"]["Checkpoints"]
        return float(state.get("fid", state["best"]))  # earlier versions kept one best checkpoint
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def remove_unfinished(folder: Path) -> None:
    """Deletes what a process that was killed while it wrote a checkpoint left behind; no other process may be writing one."""
    checkpoints = (folder / LAST_CHECKPOINT).parent
    (checkpoints / UNNAMED).unlink(missing_ok=True)
    remove_temporaries(checkpoints)
