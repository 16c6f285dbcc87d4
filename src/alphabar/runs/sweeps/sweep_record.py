"""The record of a sweep in its folder, `sweep.json`, from which it goes on: its command line, its jobs and their results."""

import json
from dataclasses import asdict, fields
from pathlib import Path

from alphabar.errors import UserError
from alphabar.files.atomic import remove_temporaries, write_text
from alphabar.runs.floor import MEAN_FID
from alphabar.runs.folders.run_dir import lock, unlock
from alphabar.runs.folders.run_links import refuse_links
from alphabar.runs.provenance.current_command import with_invocations
from alphabar.runs.sweeps.sweep import METRICS, TABLE, Job, Sweep, SweepCommand

RECORD = "sweep.json"
OCCUPATION = "running a sweep in this folder"
FIGURE_TEXTS = ("name", "protocol")  # of a figure of merit in the result of a job
open_sweeps: list[Sweep] = []


def open_sweep(folder: Path, command: SweepCommand, may_go_on: bool = False) -> Sweep:
    """Returns this process's sweep in the folder, which it locks; a sweeper that launches more jobs gets the existing object.

    may_go_on: whether it goes on with a sweep there that the same command has begun. Raises UserError if the folder belongs to
    another sweep of an earlier time, or if another process runs one there.
    """
    for sweep in open_sweeps:
        if sweep.folder == folder:
            return sweep
    if may_go_on and (folder / RECORD).is_file() and read_record(folder).command == command:
        return reopen_sweep(folder, command)
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder, OCCUPATION)
    if (folder / TABLE).exists() or (folder / RECORD).exists():
        unlock(folder)
        raise UserError(
            f"hydra.sweep.dir={folder}: a sweep of another time is in this folder; choose another, "
            f"or go on with that one: sweep.resume={folder}"
        )
    open_sweeps.append(Sweep(folder, command=command))
    return open_sweeps[-1]


def reopen_sweep(folder: Path, command: SweepCommand) -> Sweep:
    """Returns the sweep that is recorded in the folder, which this process locks, to go on with it.

    command: what asks for it; script and working directory have to be those of the sweep. Raises UserError if they are not, if
    there is no record, if a link leads out of the folder, or if another process runs the sweep.
    """
    sweep = read_record(folder.absolute())
    assert sweep.command is not None
    began = sweep.command
    if (Path(began.script).name, began.working_directory) != (Path(command.script).name, command.working_directory):
        raise UserError(
            f"sweep.resume={folder}: was begun by {Path(began.script).name} in {began.working_directory}; "
            f"go on there: cd {began.working_directory} && "
            f"{with_invocations(f'python {Path(began.script).name}')} sweep.resume={sweep.folder}"
        )
    refuse_links(sweep.folder)
    lock(sweep.folder, OCCUPATION)
    remove_temporaries(sweep.folder)
    open_sweeps.append(sweep)
    return sweep


def close_sweeps() -> None:
    """Forgets this process's sweeps and lets others have their folders."""
    for sweep in open_sweeps:
        unlock(sweep.folder)
    open_sweeps.clear()


def save_sweep(sweep: Sweep) -> None:
    """Writes the record and the table of a sweep, each atomically."""
    jobs = [asdict(job) | {"folder": str(job.folder.relative_to(sweep.folder))} for job in sweep.jobs]
    command = sweep.command._asdict() if sweep.command is not None else None
    write_text(sweep.folder / RECORD, json.dumps({"command": command, "jobs": jobs}, indent=1, default=str) + "\n")
    sweep.save()


def read_record(folder: Path) -> Sweep:
    """Returns the sweep that is recorded in the folder. Raises UserError if there is no record, or none that can be read."""
    given = f"sweep.resume={folder}"
    if not folder.is_dir():
        raise UserError(f"{given}: there is no such folder")
    if not (folder / RECORD).is_file():
        raise UserError(f"{given}: not the folder of a sweep that can go on, it has no {RECORD}")
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        names = {field.name for field in fields(Job)}
        jobs = [Job(**{name: value for name, value in job.items() if name in names}) for job in content["jobs"]]
        command = SweepCommand(**content["command"])
        if not all(map(_is_of_job, jobs)) or not all(isinstance(word, str) for word in command.arguments):
            raise TypeError
        if len({job.num for job in jobs}) < len(jobs):
            raise ValueError
        for job in jobs:
            job.folder = folder / job.folder
            if folder.resolve() not in job.folder.resolve().parents:
                raise UserError(f"{given}: {RECORD} has a job in {job.folder}, outside the folder of the sweep")
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{given}: {RECORD} cannot be read ({type(error).__name__})") from error
    return Sweep(folder, jobs, command)


def _is_of_job(job: Job) -> bool:
    """Returns whether the fields of a job that was read have the types of a job's."""
    texts = (job.folder, job.state, job.error, *job.overrides, *job.overrides.values())
    is_numbered = isinstance(job.num, int) and job.num >= 0 and isinstance(job.seconds, int | float) and is_result(job.result)
    return is_numbered and all(isinstance(text, str) for text in texts)


def is_result(result: object) -> bool:
    """Returns whether an object that was read is what a job hands over when it ends, as far as we use it."""
    if not isinstance(result, dict) or not isinstance(result.get("objective"), int | float | None):
        return False
    figures = [result[metric] for metric in (*METRICS, MEAN_FID) if result.get(metric) is not None]
    return all(isinstance(each, dict) and all(isinstance(each.get(key), str | None) for key in FIGURE_TEXTS) for each in figures)
