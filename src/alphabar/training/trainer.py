"""The Trainer of a run: its arguments are checked, its loggers made, and the configuration is written to the run's folder."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from omegaconf import DictConfig, OmegaConf

from alphabar.config.build import build
from alphabar.config.stored import read_stored_yaml
from alphabar.config.stored_paths import confined
from alphabar.errors import UserError
from alphabar.files.atomic import atomic_writer, write_text
from alphabar.files.paths import display_path, unused_path
from alphabar.runs.folders.run_dir import readable_config
from alphabar.runs.processes.ranks import meeting, watch_ranks
from alphabar.runs.resume import LastCheckpoint
from alphabar.training.callbacks.composition import Composition
from alphabar.training.callbacks.progress import Progress
from alphabar.training.callbacks.recurring import is_any_due
from alphabar.training.callbacks.speed_figures import SpeedFigures
from alphabar.training.callbacks.stall import StallWatch
from alphabar.training.callbacks.step_figures import StepFigures
from alphabar.training.callbacks.validation import ValidationHooks
from alphabar.training.loggers.make import make_loggers
from alphabar.training.step_cost import without_profiling

PRECISIONS = ("32-true", "32", "bf16-mixed", "16-mixed")
NO_VALIDATION = "a run has no validation loop; callbacks.held_out_loss measures on held-out images"
REFUSED = {
    "use_distributed_sampler": "data deals its images out among the processes itself; need false",
    "reload_dataloaders_every_n_epochs": "batches come from one endless stream; need 0",
    "val_check_interval": NO_VALIDATION,
    "check_val_every_n_epoch": NO_VALIDATION,
    "limit_val_batches": NO_VALIDATION,
    "num_sanity_val_steps": NO_VALIDATION,
}


def check_trainer(cfg: DictConfig) -> None:
    """Raises UserError for arguments that the Trainer would accept and that then do nothing, fail, or train badly."""
    settings = cfg.trainer
    if str(settings.precision) not in PRECISIONS:
        raise UserError(
            f"trainer.precision={settings.precision}: need one of {', '.join(PRECISIONS)}; "
            "weights, schedule and noise must stay float32, of which lower precisions tell only half of the steps apart"
        )
    for key in ("log_every_n_steps", "accumulate_grad_batches"):
        if settings[key] < 1:
            raise UserError(f"trainer.{key}: need a number >= 1, got {settings[key]}")
    if (clip := settings.get("gradient_clip_val")) is not None and clip < 0:
        raise UserError(
            f"trainer.gradient_clip_val={clip}: need a norm >= 0, or null for no clipping; below 0 training goes uphill"
        )
    if any(name in str(settings.get("strategy")).lower() for name in ("fsdp", "deepspeed")):
        raise UserError(
            f"trainer.strategy={settings.strategy}: need ddp; averages, clipping and the check of gradients are of whole parameters"
        )
    for key in ("max_steps", "max_epochs", "limit_train_batches"):
        if settings.get(key) == 0:
            raise UserError(f"trainer.{key}=0: there would be nothing to train")
    overfit = settings.get("overfit_batches", 0)
    if overfit != int(overfit) or overfit < 0:
        raise UserError(f"trainer.overfit_batches={overfit}: need a whole number of batches")
    for key, reason in REFUSED.items():
        if settings.get(key):
            raise UserError(f"trainer.{key}={settings[key]}: {reason}")


def make_trainer(cfg: DictConfig, config: dict[str, Any], callbacks: list[Callback], stopped: LastCheckpoint | None) -> Trainer:
    """Returns the Trainer with the run's folder, callbacks and loggers, after `config`, the resolved `cfg`, is written down."""
    folder = Path(cfg.run_dir)
    loggers = make_loggers(cfg, stopped.step if stopped else None)
    watch = [] if cfg.stall_seconds is None else [StallWatch(cfg.stall_seconds)]
    settings: dict[str, Any] = {"default_root_dir": str(folder), "logger": loggers}
    if any(isinstance(callback, ProgressBar) for callback in callbacks):  # a stock one takes the place of ours
        callbacks = [callback for callback in callbacks if not isinstance(callback, Progress)]
        settings["enable_progress_bar"] = True
    if not any(isinstance(callback, Checkpoint) for callback in callbacks):
        settings["enable_checkpointing"] = False  # or Lightning would add a callback of its own
    settings["callbacks"] = [*watch, Composition(), *callbacks, SpeedFigures(), StepFigures(), ValidationHooks()]
    trainer: Trainer = build(cfg.trainer, "trainer")(**settings)
    trainer.profiler = without_profiling(trainer.profiler)  # type: ignore[attr-defined]
    trainer.check_val_every_n_epoch = None  # stock callbacks then act on validation, and not at the end of each epoch
    leave_signals_to_the_run(trainer)
    bound_the_meeting(trainer)
    enter_once_more_if_due(trainer)
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        watch_ranks(trainer.strategy.launcher)
    if trainer.is_global_zero:
        write_config(config, folder / "config.yaml", stopped)
        for logger in loggers:
            logger.log_hyperparams(config)
        print(f"run folder: {display_path(folder)}", flush=True)
    return trainer


def leave_signals_to_the_run(trainer: Trainer) -> None:
    """Turns Lightning's handling of signals off, since the run has its own (`StopSignals`).

    Lightning's broadcasts in a handler and before every step, and on Slurm writes files from which no run goes on.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def bound_the_meeting(trainer: Trainer) -> None:
    """Bounds the time for which the processes of a run wait for each other at its start; see `meeting`."""
    meet = trainer.strategy.setup_environment

    def meet_in_time() -> None:
        with meeting(trainer.global_rank):
            meet()

    if trainer.world_size > 1:
        trainer.strategy.setup_environment = meet_in_time  # type: ignore[method-assign]


class FitLoop(_FitLoop):
    """Lightning's loop, which is entered after the last step, too, if a signal cut off what follows that step.

    was_done: whether it was entered so, to finish a run that has no step left.
    """

    was_done = False

    @property
    def skip(self) -> bool:
        self.was_done = self.done and is_any_due(self.trainer)
        return super().skip and not self.was_done


def enter_once_more_if_due(trainer: Trainer) -> None:
    """Gives the trainer the loop `FitLoop` in the place of Lightning's own."""
    loop = FitLoop(trainer, trainer.fit_loop.min_epochs, trainer.fit_loop.max_epochs)
    loop.epoch_loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop = loop


def was_finished(trainer: Trainer) -> bool:
    """Returns whether the run had no step left, and what followed the last one was still to be done."""
    return isinstance(trainer.fit_loop, FitLoop) and trainer.fit_loop.was_done


def write_config(config: dict[str, Any], path: Path, stopped: LastCheckpoint | None) -> None:
    """Writes the resolved configuration of a run. If it was resumed with changes, the earlier configuration is kept beside it.

    A damaged one is kept as config.yaml.damaged.
    """
    if stopped is not None and path.is_file() and not is_unchanged(path, config):
        is_whole = readable_config(path.parent) is not None
        earlier = f"config_until_step_{stopped.step}.yaml" if is_whole else unused_path(path.with_name(f"{path.name}.damaged")).name
        with atomic_writer(path.with_name(earlier)) as file:
            file.write(path.read_bytes())
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(config)))


def is_unchanged(path: Path, config: dict[str, Any]) -> bool:
    """Returns whether the configuration in a file is equal to that of a run in everything but `resume`; not so if it is damaged.

    What `confined` replaces does not count either: the configuration of the resumed run has been through it.
    """
    try:
        stored = read_stored_yaml(path, str(path))
    except UserError:
        return False
    return confined(stored) | {"resume": None} == confined(config) | {"resume": None}
