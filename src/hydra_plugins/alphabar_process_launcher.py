"""The launcher of `hydra/launcher=process`, which runs every job of a sweep in its own process.

In a single process, the jobs of a sweep would share the state of the first one: process groups, devices, a wandb run, and, with
several devices, ranks that are in different jobs.
"""

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from alphabar.cli.overrides import config_options, hydra_overrides_for_jobs, quoted, restore_number_formats, split_override
from alphabar.cli.processes import Stop, run_job, stoppable
from alphabar.config.interpolation import unresolved_container
from alphabar.errors import UserError
from alphabar.runs.sweep import Job, open_sweep, write_error

# Variables that a job must not inherit: ranks, results and wandb runs of other processes.
OF_THIS_PROCESS = re.compile(
    r"((LOCAL_|NODE_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|PL_GLOBAL_SEED|WANDB_RUN_ID|MASTER_.*|TORCHELASTIC_.*)"
)
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass
class ProcessLauncherConfig:
    """The configuration that `hydra/launcher=process` selects."""

    _target_: str = f"{__name__}.ProcessLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="process", node=ProcessLauncherConfig, provider="alphabar")


class ProcessLauncher(Launcher):
    """Runs `<script> <options> <overrides> hydra.run.dir=<sweep>/<subdir>` for each job in turn, even if some fail."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepares the sweep. Raises UserError if all jobs would share a folder, or the folder belongs to an earlier sweep."""
        subdir = str(OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index,call-overload]
        if "job.num" not in subdir and "job.override_dirname" not in subdir:
            raise UserError(
                f"hydra.sweep.subdir={subdir}: the same folder for all jobs; "
                "write ${hydra.job.num} or ${hydra.job.override_dirname} into it"
            )
        self.hydra_context = hydra_context
        self.config = config
        self.sweep = open_sweep(Path(str(config.hydra.sweep.dir)).absolute())

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs and returns their results; a signal to stop ends the running job and skips the others."""
        sweep = self.sweep
        sweep.folder.mkdir(parents=True, exist_ok=True)
        configs = [self._compose(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        waiting = [self._new_job(config) for config in configs]
        returns = []
        with stoppable() as stop:
            sweep.jobs += waiting
            for config, job in zip(configs, waiting, strict=True):
                if stop.signum is None:
                    print(f"[{job.num + 1}/{len(sweep.jobs)}] {sweep.label(job.overrides)}", flush=True)
                    self._run(config, job, stop)
                    sweep.save()
                returns.append(self._returned(config, job))
        if stop.signum is not None:
            raise KeyboardInterrupt if stop.signum == signal.SIGINT else SystemExit(128 + stop.signum)
        return returns

    def _compose(self, overrides: Sequence[str], num: int) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = f"job_{num}"
            config.hydra.job.num = num
        return config

    def _new_job(self, config: DictConfig) -> Job:
        values = {key: value or "" for key, value in map(split_override, self._overrides(config))}
        return Job(config.hydra.job.num, values, self.sweep.folder / str(config.hydra.sweep.subdir))

    def _overrides(self, config: DictConfig) -> list[str]:
        return restore_number_formats(unresolved_container(config.hydra.overrides.task), sys.argv[1:])

    def _run(self, config: DictConfig, job: Job, stop: Stop) -> None:
        job_command = [*_script(), *config_options(sys.argv[1:]), *self._overrides(config)]
        job_command += hydra_overrides_for_jobs(unresolved_container(config.hydra.overrides.hydra))
        job_command += [f"hydra.job.num={job.num}", "hydra.mode=RUN"]
        command = [*job_command, f"hydra.run.dir={quoted(str(job.folder))}"]
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="alphabar-job-") as scratch:
            result, errors = Path(scratch) / "result.json", Path(scratch) / "errors"
            env = _clean_environment() | {
                "ALPHABAR_SWEEP": self.sweep.folder.name,
                "ALPHABAR_RESULT": str(result),
                "ALPHABAR_ERRORS": str(errors),
            }
            code = run_job(command, env, Path(config.hydra.runtime.cwd), stop)
            content = _job_result(result, errors, code)
        job.seconds = time.monotonic() - begin
        job.state = "stopped" if stop.signum is not None else content.pop("state")
        job.error = content.pop("error", "")
        traceback = content.pop("traceback", "")
        job.result = content
        if job.state == "failed":
            write_error(job, job_command, traceback)

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


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not OF_THIS_PROCESS.fullmatch(name)}


def _job_result(result: Path, errors: Path, code: int) -> dict[str, Any]:
    """Returns the result that the job wrote, or, if there is none, its state and error as far as they are known."""
    if result.exists():
        content = json.loads(result.read_text(encoding="utf-8"))
        if content["state"] != "finished" or code == 0:
            return content
    said = sorted(errors.iterdir(), key=lambda path: path.stat().st_mtime) if errors.exists() else []
    if said:
        return {"state": "failed", "error": " | ".join(path.read_text(encoding="utf-8") for path in said)}
    if code < 0:
        name = signal.Signals(-code).name
        return {"state": "stopped" if -code == signal.SIGTERM else "failed", "error": f"ended by {name}"}
    return {"state": "failed", "error": f"exit code {code}, and no result"}
