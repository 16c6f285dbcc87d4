"""Makes the loggers that a configuration names."""

import os
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import DictConfig

from alphabar.config.build import build
from alphabar.errors import UserError
from alphabar.files.paths import unused_path
from alphabar.runs.folders.run_dir import is_first_process
from alphabar.training.loggers.metrics_file import MetricsFile


def make_loggers(cfg: DictConfig, resumed_at: int | None) -> list[Logger]:
    """Returns the logger of `metrics.csv` and, on the first process, the other loggers of a run.

    A node with `_partial_: true` is called with the run's folder, its name and its sweep; any other node is the logger itself.
    resumed_at: the step from which a resumed run goes on. Raises UserError for a logger that would write over files of the run.
    """
    folder = Path(cfg.run_dir)
    own = MetricsFile(folder, resumed_at)
    if not is_first_process():
        return [own]
    made: dict[str, Logger | Callable[..., Logger]] = build(cfg.logger, "logger") or {}
    names = {"name": cfg.name or folder.name, "group": os.environ.get("ALPHABAR_SWEEP")}
    others = {key: each if isinstance(each, Logger) else each(run_dir=str(folder), **names) for key, each in made.items()}
    for key, logger in others.items():
        if isinstance(logger, CSVLogger):
            keep_earlier_rows(logger, f"logger.{key}", folder)
    return [own, *others.values()]


def keep_earlier_rows(logger: CSVLogger, key: str, run_dir: Path) -> None:
    """Renames the folder of an earlier start, whose rows this logger would delete.

    Raises UserError if the logger would write into the run's own folder.
    """
    there = Path(logger.log_dir)
    if there.resolve() == run_dir.resolve():
        raise UserError(f"{key}: would write over the run's own metrics.csv; need another name or version")
    if there.is_dir() and any(there.iterdir()):
        there.rename(unused_path(there.with_name(f"{there.name}_earlier")))
