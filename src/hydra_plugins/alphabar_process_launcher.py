"""The launcher of `hydra/launcher=process`, which runs every job of a sweep in its own process.

In a single process, the jobs of a sweep would share the state of the first one: process groups, devices, a wandb run, and, with
several devices, ranks that are in different jobs.
"""

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from alphabar.cli.composition.overrides import (
    config_options,
    goes_on_if_repeated,
    hydra_overrides_for_jobs,
    override_value,
    quoted,
    restore_number_formats,
    split_override,
)
from alphabar.cli.composition.recorded_command import remember_command
from alphabar.cli.processes import Stop, run_job, stoppable, this_command
from alphabar.config.interpolation import unresolved_container
from alphabar.errors import UserError, printable
from alphabar.files.paths import unused_path
from alphabar.runs.folders.run_dir import AUTO, EARLIER_ATTEMPT, has_checkpoint
from alphabar.runs.folders.run_links import refuse_links_to
from alphabar.runs.processes.signals import signal_name
from alphabar.runs.processes.slurm import REQUEUE_SIGNALS, OutOfTime
from alphabar.runs.sweeps.sweep import ERROR, Job, write_error
from alphabar.runs.sweeps.sweep_record import is_result, open_sweep, save_sweep

# Variables that a job must not inherit: ranks, results and wandb runs of other processes.
OF_THIS_PROCESS = re.compile(
    r"((LOCAL_|NODE_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|PL_GLOBAL_SEED|WANDB_RUN_ID|MASTER_.*|TORCHELASTIC_.*)"
)
NOTES, RESULT = ".jobs", "result.json"  # the folder, in that of the sweep, and the file in which a job leaves its result
STATES = ("finished", "failed", "stopped")  # in which a job ends
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass
class ProcessLauncherConfig:
    """The configuration that `hydra/launcher=process` selects."""

    _target_: str = f"{__name__}.ProcessLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="process", node=ProcessLauncherConfig, provider="alphabar")


class ProcessLauncher(Launcher):
    """Runs `<script> <options> <overrides> hydra.run.dir=<sweep>/<subdir>` for each job in turn, even if some fail."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepares the sweep. Raises UserError if jobs would share a folder or leave that of the sweep, or if it is another's."""
        subdir = str(OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index,call-overload]
        if "job.num" not in subdir and "job.override_dirname" not in subdir:
            raise UserError(
                f"hydra.sweep.subdir={subdir}: the same folder for all jobs; "
                "write ${hydra.job.num} or ${hydra.job.override_dirname} into it"
            )
        if Path(subdir).is_absolute() or ".." in Path(subdir).parts:
            raise UserError(f"hydra.sweep.subdir={subdir}: need a folder in that of the sweep; hydra.sweep.dir says where it is")
        self.hydra_context = hydra_context
        self.config = config
        folder, command = Path(str(config.hydra.sweep.dir)).absolute(), this_command()
        self.sweep = open_sweep(folder, command, may_go_on=goes_on_if_repeated(command.arguments))
        if self.sweep.command == command:  # it begins, or goes on by the same words
            remember_command(command.arguments)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs that have not finished before, and returns the results of all.

        A signal to stop ends the running job and skips the others.
        """
        configs = [self._compose(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        jobs = [self._job(config) for config in configs]
        self._add(jobs)
        returns = []
        with stoppable() as stop:
            for config, job in zip(configs, jobs, strict=True):
                line = f"[{job.num + 1}/{len(self.sweep.jobs)}] {self.sweep.label(job.overrides)}"
                if job.state == "finished":
                    print(printable(f"{line}: finished before"), flush=True)
                elif stop.signum is None:
                    print(printable(line), flush=True)
                    self._run(config, job, stop)
                returns.append(self._returned(config, job))
        if stop.signum is None:
            return returns
        if stop.signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise (OutOfTime if stop.signum in REQUEUE_SIGNALS else SystemExit)(128 + stop.signum)

    def _add(self, jobs: Sequence[Job]) -> None:
        """Adds the jobs to the sweep, unless it goes on and has them, and writes the record before any of them starts."""
        known = {job.num for job in self.sweep.jobs}
        self.sweep.jobs += [job for job in jobs if job.num not in known]
        save_sweep(self.sweep)

    def _compose(self, overrides: Sequence[str], num: int) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = f"job_{num}"
            config.hydra.job.num = num
        return config

    def _job(self, config: DictConfig) -> Job:
        """Returns the job of this configuration: the recorded one if the sweep goes on, else a new one.

        Raises UserError if its folder is not below that of the sweep, if what it leaves there would be behind a link, or if the
        record has another job of this number, as of a sweeper whose proposals do not repeat.
        """
        values = {key: value or "" for key, value in map(split_override, self._overrides(config))}
        job = Job(config.hydra.job.num, values, self.sweep.folder / str(config.hydra.sweep.subdir))
        recorded = next((each for each in self.sweep.jobs if each.num == job.num), job)
        if recorded.overrides != job.overrides:
            was, now = (" ".join(f"{key}={value}" for key, value in each.overrides.items()) for each in (recorded, job))
            raise UserError(f"sweep.resume={self.sweep.folder}: job {job.num} was {was} and would now be {now}")
        refuse_links_to(self.sweep.folder, Path(NOTES, str(job.num)))
        for each in (job, recorded):
            if self.sweep.folder.resolve() not in each.folder.resolve().parents:
                raise UserError(f"hydra.sweep.subdir: job {job.num} would be in {each.folder}, outside the folder of the sweep")
        return recorded

    def _overrides(self, config: DictConfig) -> list[str]:
        return restore_number_formats(unresolved_container(config.hydra.overrides.task), sys.argv[1:])

    def _run(self, config: DictConfig, job: Job, stop: Stop) -> None:
        """Runs a job, unless it has finished without anybody there to note it, and records its state and result."""
        command = [*_script(), *config_options(sys.argv[1:]), *self._overrides(config)]
        command += hydra_overrides_for_jobs(unresolved_container(config.hydra.overrides.hydra))
        command += [f"hydra.job.num={job.num}", "hydra.mode=RUN", *self.sweep.trust]
        notes = self.sweep.folder / NOTES / str(job.num)
        content = _finished_result(notes) or self._result(job, command, notes, Path(config.hydra.runtime.cwd), stop)
        state = content.pop("state")
        job.state = "stopped" if stop.signum is not None and state != "finished" else state
        job.error = content.pop("error", "")
        traceback = content.pop("traceback", "")
        job.result = content
        if job.state == "failed":
            write_error(job, command, traceback)
        else:
            (job.folder / ERROR).unlink(missing_ok=True)  # of an earlier start
        save_sweep(self.sweep)
        shutil.rmtree(notes, ignore_errors=True)  # what it says is in the record
        with suppress(OSError):  # not empty
            notes.parent.rmdir()

    def _result(self, job: Job, command: Sequence[str], notes: Path, cwd: Path, stop: Stop) -> dict[str, Any]:
        """Runs a job and returns what it left in the folder `notes`."""
        begin = time.monotonic()
        shutil.rmtree(notes, ignore_errors=True)
        notes.mkdir(parents=True)
        command = [*command, f"hydra.run.dir={quoted(str(job.folder))}", *_go_on_or_set_aside(job)]
        job.state = "running"
        save_sweep(self.sweep)
        env = _clean_environment() | {
            "ALPHABAR_SWEEP": self.sweep.folder.name,
            "ALPHABAR_RESULT": str(notes / RESULT),
            "ALPHABAR_ERRORS": str(notes / "errors"),
        }
        code = run_job(command, env, cwd, stop)
        job.seconds += time.monotonic() - begin
        return _job_result(notes / RESULT, notes / "errors", code)

    def _returned(self, config: DictConfig, job: Job) -> JobReturn:
        is_good = job.state == "finished"
        # Hydra's own sweeper stops at the first reported failure; the sweep's table and exit code report all of them.
        is_reported = self.config.hydra.sweeper.get("_target_") != BASIC_SWEEPER
        objective = job.result.get("objective")
        value = job.result if objective is None else float(objective)
        job_return = JobReturn(
            overrides=unresolved_container(config.hydra.overrides.task),
            cfg=config,
            hydra_cfg=config,
            working_dir=str(job.folder),
            task_name=config.hydra.job.name,
            status=JobStatus.COMPLETED if is_good or not is_reported else JobStatus.FAILED,
        )
        job_return.return_value = value if is_good else UserError(f"job {job.num} {job.state}: {job.error}")
        return job_return


def _script() -> list[str]:
    """Returns the command with which this program was started, without its arguments."""
    import __main__

    spec = getattr(__main__, "__spec__", None)
    return [sys.executable, os.path.abspath(sys.argv[0])] if spec is None else [sys.executable, "-m", spec.name]


def _go_on_or_set_aside(job: Job) -> list[str]:
    """Returns the override with which a job goes on from a checkpoint of an earlier start; without one, moves its folder aside."""
    if has_checkpoint(job.folder):
        return [] if override_value(f"key={job.overrides.get('resume')}") == AUTO else [f"resume={AUTO}"]
    if job.folder.exists():
        job.folder.rename(unused_path(job.folder.with_name(f"{job.folder.name}_{EARLIER_ATTEMPT}")))
    return []


def _finished_result(notes: Path) -> dict[str, Any] | None:
    """Returns the result that a job wrote when nobody was there to read it; None if there is none, or it tells of no success."""
    content = _written_result(notes / RESULT)
    return content if content is not None and content["state"] == "finished" else None


def _written_result(path: Path) -> dict[str, Any] | None:
    """Returns the result in a file; None if there is none that a job could have written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not is_result(content) or content.get("state") not in STATES:
        return None
    return content if all(isinstance(content.get(key, ""), str) for key in ("error", "traceback")) else None


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not OF_THIS_PROCESS.fullmatch(name)}


def _job_result(result: Path, errors: Path, code: int) -> dict[str, Any]:
    """Returns the result that the job wrote, or, if there is none, its state and error as far as they are known."""
    content = _written_result(result)
    if content is not None and (content["state"] != "finished" or code == 0):
        return content
    said = sorted(errors.iterdir(), key=lambda path: path.stat().st_mtime) if errors.exists() else []
    if said:
        return {"state": "failed", "error": " | ".join(path.read_text(encoding="utf-8") for path in said)}
    if code < 0:
        return {"state": "stopped" if -code == signal.SIGTERM else "failed", "error": f"ended by {signal_name(-code)}"}
    return {"state": "failed", "error": f"exit code {code}, and no result"}
