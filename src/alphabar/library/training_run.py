"""Training from Python, and the folder of a run."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from omegaconf import DictConfig

from alphabar.cli.command import task_overrides
from alphabar.config.interpolation import unresolved_container
from alphabar.errors import UserError
from alphabar.files.paths import display_path, user_path
from alphabar.library.composition import run_command
from alphabar.library.model import Model, load
from alphabar.reports.at_end import leave_report
from alphabar.runs.folders.run_dir import CONFIG, stored_config
from alphabar.runs.metrics_csv import read_rows
from alphabar.runs.provenance.receipt import read_starts
from alphabar.training.callbacks.stopping import STOP_SIGNALS
from alphabar.training.run import run_training


def train(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> "TrainingRun":
    """Trains as `python train.py` does with the overrides ["schedule=cosine", "trainer.max_steps=100"], and returns the run.

    config_dir: a folder with YAML files of one's own, as --config-dir. Ctrl-C stops after the step with a checkpoint, and a second
    one at once, both with KeyboardInterrupt; train(["resume=FOLDER"]) goes on.
    Raises UserError for bad input, and for several devices, for which train.py starts a process each.
    """
    result = run_command("train", train_on_one_device, overrides, config_dir)
    return TrainingRun(str(result["folder"]))


def train_on_one_device(cfg: DictConfig) -> dict[str, object]:
    """Trains and returns the result of the run; signals never end the process. Raises UserError for several devices."""
    settings = {key: cfg.trainer[key] for key in ("accelerator", "devices", "num_nodes") if key in cfg.trainer}
    num = 1
    with suppress(Exception):  # of several kinds; the Trainer says what is wrong
        num = Fabric(**settings).world_size
    if num > 1:
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}: {num} processes are for python train.py; here need trainer.devices=1"
        )
    with STOP_SIGNALS.listening(ends_process=False):
        return run_training(cfg, task_overrides(), leave_report)


class TrainingRun:
    """The folder of a run, which any process may have trained: TrainingRun("outputs/train/NAME").

    Raises UserError if it is not the folder of a run.
    """

    def __init__(self, folder: str | Path) -> None:
        if not isinstance(folder, str | Path):
            raise UserError(f"folder: need the path of a run's folder, got {folder!r}")
        self.folder = user_path(folder).absolute()
        if not (self.folder / CONFIG).is_file():
            raise UserError(f"{folder}: not the folder of a run, it has no {CONFIG}")

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the run, as plain values."""
        return unresolved_container(stored_config(self.folder))

    @property
    def figures(self) -> dict[str, float]:
        """The latest value of each figure, such as "train/loss"; empty if the run has not ended."""
        starts = read_starts(self.folder)
        return dict(starts[-1].get("figures", {}))

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, each with its "step" and the figures that it has: pandas.DataFrame(run.metrics) is the table."""
        rows = read_rows(self.folder / "metrics.csv")
        return [{name: int(text) if name == "step" else float(text) for name, text in row.items() if text} for row in rows]

    @property
    def samples(self) -> Path | None:
        """The newest grid of samples, or None if the run has drawn none."""
        return max((self.folder / "samples").glob("step_*.png"), default=None)

    @property
    def report(self) -> Path | None:
        """The page of the run, or None if it has left none."""
        path = self.folder / "report.html"
        return path if path.is_file() else None

    def model(self, **settings: Any) -> Model:
        """Returns the model of the last checkpoint; settings: the arguments of `load`."""
        return load(str(self.folder), **settings)

    def __repr__(self) -> str:
        return f"TrainingRun({display_path(self.folder)})"
