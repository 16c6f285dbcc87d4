"""Run folders: the path of a new one, the process that owns it, and whether its run can be resumed."""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from alphabar.config.former_names import upgrade_config
from alphabar.config.stored import UnreadableConfig, read_stored_yaml
from alphabar.config.stored_paths import confined
from alphabar.errors import UserError
from alphabar.files.atomic import WriteError, make_folder, write_errors
from alphabar.files.paths import display_path, unused_path
from alphabar.files.versions import existing_versions
from alphabar.runs.folders.run_links import refuse_links

OWNER = ".owner"
CONFIG = "config.yaml"
NEEDED_KEYS = ("seed", "module", "trainer", "data", "callbacks", "run_dir")  # one that lacks any of them has been cut off
LAST_CHECKPOINT = "checkpoints/last.ckpt"
BEST_CHECKPOINT = "checkpoints/best.ckpt"
EARLIER_ATTEMPT = "earlier_attempt"
MOST_RUNS = 200  # the number of runs, the newest ones, that are searched for a name
AUTO = "auto"  # the value of `resume` with which a command starts its run or goes on with it, whichever is due
KEPT_IN_NEW_ATTEMPT = ("wandb", "wandb_id.txt", "mlruns", "mlflow_id.txt")  # the run stays the same one there
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # the variables that Lightning reads
_locks: dict[Path, BaseFileLock] = {}  # held for as long as the process lives
_numbers = count(1)  # of the runs of this process


@cache
def new_run_name() -> str:
    """Returns <date>_<time>_<process>, which stays the same until `begin_another_run`, and differs from that of any other run."""
    number = next(_numbers)
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}" + (f"_{number}" if number > 1 else "")


def begin_another_run() -> None:
    """Lets the next run of this process have another name than those before it."""
    new_run_name.cache_clear()


@contextmanager
def locks_released() -> Iterator[None]:
    """Releases at its end the locks that were taken inside, for a process that goes on after its run."""
    before = set(_locks)
    try:
        yield
    finally:
        for path in set(_locks) - before:
            unlock(path.parent)


def run_dir(outputs: str, command: str, resume: str | None, name: str | None = None) -> str:
    """Returns the folder of a run: <outputs>/<command>/<name> for resume=auto, the one to resume if there is one, else a new one.

    Raises UserError if `resume` cannot be resumed, if resume=auto has no name that could be that of a folder, or if several
    processes were started from outside (torchrun, Slurm), each of which would choose a folder of its own.
    """
    if resume == AUTO:
        if not name or name in (".", "..") or Path(name).name != name:
            found = f", got name={name}" if name else ""
            raise UserError(
                "resume=auto: needs a folder that is the same at every start: hydra.run.dir=FOLDER, "
                f"or name=NAME for {outputs}/{command}/NAME{found}"
            )
        return f"{outputs}/{command}/{name}"
    if resume is not None:
        must_be_resumable(Path(resume), resume)
        return str(resume)
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise UserError("several processes, started from outside, need one folder: give all of them the same hydra.run.dir=...")
    return f"{outputs}/{command}/{new_run_name()}"


def stored_config(folder: Path) -> DictConfig:
    """Returns the configuration in the folder of a run, with the current names of keys, classes and arguments.

    Raises UserError if it is not one that `read_stored_yaml` takes.
    """
    config: dict[str, Any] = confined(upgrade_config(read_stored_yaml(folder / CONFIG, display_path(folder / CONFIG))))
    return OmegaConf.create(config)


def readable_config(folder: Path) -> DictConfig | None:
    """Returns the configuration in the folder of a run; None if its config.yaml is missing, damaged or cut off.

    Raises UserError for one whose content is refused.
    """
    try:
        config = stored_config(folder) if (folder / CONFIG).is_file() else None
    except UnreadableConfig:
        return None
    return config if config is not None and all(key in config for key in NEEDED_KEYS) else None


def config_problem(folder: Path) -> str:
    """Returns one line on a config.yaml that `readable_config` does not return: it is missing, damaged or cut off."""
    try:
        stored_config(folder)
    except UnreadableConfig as error:
        return str(error)
    return f"{display_path(folder / CONFIG)}: cut off"


def must_be_resumable(folder: Path, given: str) -> None:
    """Raises UserError unless `folder` has a checkpoint of a run, which has the run's configuration, too.

    From the best one alone no run goes on, but `newest_checkpoint` says how it could.
    """
    if not folder.is_dir():
        what = "is a file: give the folder of the run" if folder.exists() else "there is no such folder"
        raise UserError(f"resume={given}: {what}{_runs_called(folder)}")
    refuse_links(folder)
    if has_checkpoint(folder) or existing_versions(folder / BEST_CHECKPOINT):
        return
    if not (folder / CONFIG).is_file():
        raise UserError(f"resume={given}: not the folder of a run, it has no config.yaml")
    raise UserError(f"resume={given}: this run left no checkpoint, checkpoints/last.ckpt is missing; start it anew")


def _runs_called(folder: Path) -> str:
    """Returns, for a message, which runs have the name of a folder that is not there as their label; an empty text if none has."""
    named = re.compile(rf"^name: ['\"]?{re.escape(folder.name)}['\"]?$", re.MULTILINE)
    found = []
    for config in sorted(folder.parent.glob(f"*/{CONFIG}"), reverse=True)[:MOST_RUNS]:
        with suppress(OSError):
            if named.search(config.read_text(encoding="utf-8", errors="replace")):
                found.append(display_path(config.parent))
    return f"; name={folder.name} is a label, of the run in {' and '.join(found[:3])}" if found else ""


def has_checkpoint(folder: Path) -> bool:
    """Returns whether there is a checkpoint in the folder of a run from which it can go on."""
    return bool(existing_versions(folder / LAST_CHECKPOINT))


def claim(folder: Path, again: bool = False) -> bool:
    """Creates the folder of a new run and locks it; only the first process of a run does.

    again: accept the folder of an earlier attempt that left no checkpoint; its files move to `earlier_attempt`, and a line says so.
    Returns whether the folder is new. Raises UserError if it contains anything but Hydra's own logs, if another run has claimed
    it, or, with `again`, if another process is training in it or has left a checkpoint meanwhile.
    """
    if not is_first_process():
        return False
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    is_new = not (folder / OWNER).exists()
    if is_new and any(not is_hydra_log(entry.name) for entry in folder.iterdir()):
        raise folder_taken(folder)
    with write_errors(folder / OWNER):
        try:
            (folder / OWNER).touch(exist_ok=False)
        except FileExistsError as error:
            if not again:
                raise folder_taken(folder) from error
        else:
            write_owner(folder)
    lock(folder)
    if not is_new:
        set_aside_earlier_attempt(folder)
    return is_new


def write_owner(folder: Path) -> None:
    """Writes this process into the mark of a new run; without it the folder would stay taken by a run that never began."""
    try:
        (folder / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    except OSError:
        (folder / OWNER).unlink()
        raise


def set_aside_earlier_attempt(folder: Path) -> None:
    """Moves the files of an attempt that left no checkpoint to `earlier_attempt`, or `earlier_attempt_2` and so on.

    Raises UserError if there is a checkpoint after all.
    """
    if has_checkpoint(folder):
        raise UserError(f"{folder}: another process has just left a checkpoint there; the same command goes on with it")
    kept = (OWNER, *KEPT_IN_NEW_ATTEMPT)
    entries = [entry for entry in folder.iterdir() if entry.name not in kept and not is_hydra_log(entry.name)]
    entries = [entry for entry in entries if not entry.name.startswith(EARLIER_ATTEMPT)]
    if not entries:
        return
    aside = unused_path(folder / EARLIER_ATTEMPT)
    make_folder(aside)
    for entry in entries:
        entry.rename(aside / entry.name)
    print(f"an earlier attempt left no checkpoint, the run starts over; its files: {display_path(aside)}", flush=True)


def withdraw(folder: Path) -> None:
    """Deletes a folder that this run has claimed, after a run that trained nothing; only the first process does.

    It raises nothing, for the error that ended the run is the one to tell: another process of the same command may remove the
    folder first, once it is empty, and what cannot be deleted stays, as Hydra's logs do.
    """
    if not is_first_process():
        return
    unlock(folder)
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.is_dir() and not is_hydra_log(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
            elif not is_hydra_log(entry.name):
                entry.unlink()
        folder.rmdir()


def is_first_process() -> bool:
    """Returns whether this is the first process of a run, be the others started by Lightning, torchrun or Slurm."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    return rank == "0" and os.environ.get("NODE_RANK", "0") == "0"


def lock(folder: Path, occupation: str = "training this run") -> None:
    """Keeps other processes from training the run in `folder` while this process lives; only the first process of a run does.

    occupation: what the process does there. The system releases the lock when the process ends, however it ends; its DataLoader
    workers do not inherit it. A process that holds it already may take it again. Raises UserError if another process holds it, and
    for links as `refuse_links` does, since who holds the lock writes into the folder, and WriteError if it cannot be taken.
    """
    if not is_first_process():
        return
    refuse_links(folder)
    file_lock = FileLock(folder.resolve() / OWNER, timeout=0, thread_local=False, is_singleton=True)
    try:
        file_lock.acquire()
    except Timeout as error:
        raise UserError(f"{folder}: another process is {occupation} just now") from error
    except OSError as error:  # such as a link in the place of the file
        raise WriteError(folder / OWNER, error) from error
    _locks[Path(file_lock.lock_file)] = file_lock


def unlock(folder: Path) -> None:
    """Releases the lock of this process on the run in `folder`, if it holds one."""
    if (file_lock := _locks.pop(folder.resolve() / OWNER, None)) is not None:
        file_lock.release(force=True)


def is_hydra_log(name: str) -> bool:
    """Returns whether a file or folder with this name is one of Hydra's logs."""
    return name == ".hydra" or name.endswith(".log")


def folder_taken(folder: Path) -> UserError:
    """Returns the error for a folder that another run owns."""
    return UserError(f"{folder} is not empty, and a new run needs a folder of its own; to go on with a run: resume={folder}")
