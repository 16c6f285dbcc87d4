"""One training run, from its configuration to its result."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from alphabar.config.build import build
from alphabar.config.interpolation import unresolved_container
from alphabar.config.roles import remember_classes
from alphabar.config.stored import plain_config
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.sources.own_datamodule import build_data
from alphabar.diffusion.noise import derive_seed
from alphabar.errors import UserError
from alphabar.files.atomic import remove_temporaries
from alphabar.files.bounded_allocation import BoundedAllocation
from alphabar.files.paths import display_path
from alphabar.models.codecs import Codec
from alphabar.resolution import resolution_of
from alphabar.runs.checkpoints.checkpoint import must_fit, weight_shapes
from alphabar.runs.checkpoints.data_root import compare_image_files, names_data_root
from alphabar.runs.folders.run_dir import AUTO, LAST_CHECKPOINT, claim, is_first_process, withdraw
from alphabar.runs.processes.slurm import requeue_job
from alphabar.runs.resume import (
    LastCheckpoint,
    checkpoint_to_go_on_from,
    must_be_same_run,
    refuse_moved_paths,
    resumed_config,
)
from alphabar.training.callbacks import RunCallback
from alphabar.training.callbacks.nonfinite import ADVICE, NonFiniteSteps
from alphabar.training.callbacks.stopping import STOP_SIGNALS
from alphabar.training.modules.base import BaseModule
from alphabar.training.optimization.trial import check_optimizer
from alphabar.training.profile import report_profile
from alphabar.training.record import recorded_run
from alphabar.training.recovery.finite import nonfinite_weight
from alphabar.training.run_summary import report_end, report_stop, run_result
from alphabar.training.speed import choose_speed
from alphabar.training.step_cost import leave_out_empty_hooks
from alphabar.training.trainer import check_trainer, make_trainer, was_finished
from alphabar.training.warm_start import begin_from

log = logging.getLogger(__name__)
# Names of classes stand three times in a configuration, whose values and characters `plain_config` bounds.
MAX_NAMED_CLASSES, MAX_NAME_CHARACTERS = 2000, 2**16
LeaveReport = Callable[[Path], Path | None]  # writes the report of the run in a folder and returns its path, if there is one now


def train_until_stopped(
    cfg: DictConfig, overrides: Sequence[str] = (), leave_report: LeaveReport | None = None
) -> dict[str, object]:
    """Builds what the configuration names, trains it, reports where everything is, and returns the result of the run.

    leave_report: is called last of all when the run has ended or was stopped, unless it has `report=false`.
    A signal to stop ends it with SystemExit or KeyboardInterrupt, see `StopSignals`; a job of Slurm is then queued again.
    """
    with STOP_SIGNALS.listening():
        try:
            return run_training(cfg, overrides, leave_report)
        except SystemExit as error:
            if isinstance(error.code, int) and is_first_process():
                requeue_job(error.code - 128, goes_on=cfg.resume == AUTO)
            raise


def run_training(cfg: DictConfig, overrides: Sequence[str], leave_report: LeaveReport | None) -> dict[str, object]:
    """Does what `train_until_stopped` does, without an eye on signals."""
    cfg, stopped = resumed_or_new(cfg, overrides)
    speed = choose_speed(cfg)
    check_trainer(cfg)
    leave_report = leave_report if wants_report(cfg) else None
    is_resumed = cfg.resume not in (None, AUTO)
    with names_data_root() if is_resumed else nullcontext():
        datamodule = build_data(cfg)
    compare_image_files(cfg, datamodule.source.image_files(), stopped)
    fill_derived_keys(cfg, datamodule)
    module = build_module(cfg, datamodule, bounded_by(stopped) if stopped is not None and is_resumed else nullcontext())
    module.compute_with(speed)
    if stopped is not None:
        if cfg.resume == AUTO:
            must_be_same_run(Path(cfg.run_dir), module.config, overrides)
        must_fit(stopped.weights, weight_shapes(module.state_dict()), display_path(stopped.path))
    else:
        begin_from(module, cfg)
    if is_first_process():
        remember_classes(module.config)
    callbacks = build_callbacks(cfg, module)
    if stopped is not None and is_first_process():
        remove_temporaries(Path(cfg.run_dir))
    is_new = stopped is None and claim(Path(cfg.run_dir), again=cfg.resume == AUTO)
    begin = time.perf_counter()
    trainer = fit_module(cfg, module, datamodule, callbacks, stopped, is_new, leave_report)
    result = run_result(trainer, module, time.perf_counter() - begin)
    report_profile(trainer)
    if trainer.is_global_zero:
        report_end(result, trainer, module, first_step=stopped.step if stopped and not was_finished(trainer) else 0)
        STOP_SIGNALS.defer()  # the run has ended, and takes but a moment more
        finish(cfg, leave_report)
    return result


def finish(cfg: DictConfig, leave_report: LeaveReport | None) -> None:
    """Leaves the report of the run, unless it has none, and prints where it is."""
    if leave_report is not None and (page := leave_report(Path(cfg.run_dir))) is not None:
        print(f"  {'report':<12} {display_path(page)}", flush=True)


def wants_report(cfg: DictConfig) -> bool:
    """Returns whether the run is to leave a report, as one of an earlier version does. Raises UserError for anything but a bool."""
    value = OmegaConf.select(cfg, "report", default=True)
    if not isinstance(value, bool):
        raise UserError(f"report={value}: need true or false")
    return value


def resumed_or_new(cfg: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, LastCheckpoint | None]:
    """Returns the configuration of the run and, if it is resumed, where it stopped. Raises UserError if it cannot be resumed."""
    if cfg.resume not in (None, AUTO):
        return resumed_config(cfg, overrides)
    refuse_moved_paths(cfg)
    return cfg, checkpoint_to_go_on_from(Path(cfg.run_dir)) if cfg.resume == AUTO else None


def bounded_by(stopped: LastCheckpoint) -> BoundedAllocation:
    """Returns the bound on a module whose configuration came with the checkpoint of a run."""
    return BoundedAllocation(display_path(stopped.path), stopped.path.stat().st_size, len(stopped.weights))


def fill_derived_keys(cfg: DictConfig, datamodule: ImageDataModule) -> None:
    """Sets the keys of the configuration that follow from the data and from the files of frozen parts.

    Raises UserError if the codec or the conditioner cannot work with these data, and ConfigError if the frozen parts are not those
    that a resumed run began with.
    """
    cfg.shape = {"channels": datamodule.shape.channels, "resolution": datamodule.shape.resolution}
    if "bits" in cfg.codec:
        cfg.codec.bits = None if datamodule.bits == 8 else datamodule.bits
    cfg.space = model_space(cfg, datamodule)
    for name, part in (("tokens", "conditioner.encoder"), ("vector", "conditioner.clip")):
        if isinstance(cfg.get("conditioning"), DictConfig) and OmegaConf.is_missing(cfg.conditioning, name):
            cfg.conditioning[name] = build(OmegaConf.select(cfg, part), part).width
    for key in ("codec", "conditioner"):
        if "digest" in cfg[key]:
            cfg[key].digest = build(cfg[key], key).digest
    if "${num_classes}" in str(unresolved_container(cfg.conditioner)):
        names = class_names(datamodule, conditioner_name(cfg))
        cfg.num_classes, cfg.class_names = len(names), names_to_keep(names)
    if "${vector_length}" in str(unresolved_container(cfg.conditioner)):
        datamodule.prepare_data()
        cfg.vector_length = datamodule.source.vector_length
        if cfg.vector_length is None:
            reason = datamodule.reason_for_none("vectors")
            raise UserError(f"{conditioner_name(cfg)} needs images with vectors, and these data have none{reason}")


def conditioner_name(cfg: DictConfig) -> str:
    """Returns the override that chose the conditioner, such as "conditioner=class_label", or the key alone if it is not known."""
    choice = OmegaConf.select(cfg, "choices.conditioner")
    return "conditioner" if choice is None else f"conditioner={choice}"


def model_space(cfg: DictConfig, datamodule: ImageDataModule) -> dict[str, int | list[int]]:
    """Returns the channels and the resolution that the network sees; vectors have resolution 1.

    Raises UserError if the codec encodes no images of the data's size.
    """
    codec: Codec = build(cfg.codec, "codec")
    try:
        channels, *size = codec.space(*datamodule.shape)
    except ValueError as error:
        raise UserError(f"codec: {error}") from error
    return {"channels": channels, "resolution": resolution_of(*size) if size else 1}


def class_names(datamodule: ImageDataModule, conditioner: str) -> list[str]:
    """Returns the names of the classes of the data; one that a configuration would take for a reference is replaced by its number.

    Raises UserError if its images have no classes. conditioner: the override that needs them, in the message.
    """
    datamodule.prepare_data()  # the names may lie in files that are to be downloaded
    if datamodule.classes is None:
        reason = datamodule.reason_for_none("classes")
        raise UserError(f"{conditioner} needs images with classes, and these data have none{reason}")
    return [str(label) if "${" in name or name == "???" else name for label, name in enumerate(datamodule.classes)]


def names_to_keep(names: list[str]) -> list[str] | None:
    """Returns the names of the classes, or None, with a line in the log, if a configuration has no room for so many."""
    if len(names) <= MAX_NAMED_CLASSES and sum(map(len, names)) <= MAX_NAME_CHARACTERS:
        return names
    if is_first_process():
        log.warning("%s classes are too many to keep their names: this model knows them by their numbers", f"{len(names):,}")
    return None


def build_module(cfg: DictConfig, datamodule: ImageDataModule, bound: AbstractContextManager[object]) -> BaseModule:
    """Returns the module with initial weights that depend on `seed` alone.

    bound: the context in which it is built, a bound on its memory; its data are attached outside, where they may be encoded.
    Raises UserError if its parts, the data, the sampler and the guidance do not go together, and if the configuration is none that
    can be read again from a checkpoint, of which nothing could be drawn.
    """
    torch.manual_seed(derive_seed("weights", cfg.seed))
    with bound:
        module: BaseModule = build(cfg.module, "module")
    if datamodule.bits != 8 and (part := module.part_of_8_bits) is not None:
        raise UserError(f"data.bits={datamodule.bits}: {part} takes images of 8 bits; need data.bits=8")
    if not module.reads_captions:
        datamodule.leave_out_captions()
    if datamodule.buckets == "auto":
        cfg.data.buckets = datamodule.choose_buckets(module.takes)
    module.attach_data(datamodule)
    module.check_config(cfg, datamodule.shape)
    check_optimizer(module.make_optimizer, module.lr_scheduler)
    module.config = plain_config(OmegaConf.to_container(cfg, resolve=True), "")
    return module


def build_callbacks(cfg: DictConfig, module: BaseModule) -> list[Callback]:
    """Returns the callbacks of the configuration, and one for steps that are not finite where it does not say.

    Raises UserError for one that draws images, if the model makes none, and for a policy that needs more checkpoints.
    """
    policy, keep_last = (OmegaConf.select(cfg, f"callbacks.{key}") for key in ("nonfinite.policy", "checkpoints.keep_last"))
    if policy == "rollback" and keep_last == 1:
        raise UserError("callbacks.nonfinite.policy=rollback: needs callbacks.checkpoints.keep_last=2 or more, to have one to take")
    callbacks: dict[str, Callback | None] = build(cfg.callbacks, "callbacks") or {}
    for name, callback in callbacks.items():
        if isinstance(callback, ModelCheckpoint):
            give_folder(callback, name, Path(cfg.run_dir))
        if isinstance(callback, RunCallback) and callback.draws_images and not module.makes_images:
            raise UserError(f"callbacks.{name}: this model makes no images: choose callbacks=prior (or autoencoder, contrastive)")
    if cfg.callbacks and "nonfinite" not in cfg.callbacks:  # a run of an earlier version; null means none
        callbacks = {"nonfinite": NonFiniteSteps(), **callbacks}
    return [callback for callback in callbacks.values() if callback is not None]


def give_folder(callback: ModelCheckpoint, name: str, run_dir: Path) -> None:
    """Gives a stock callback that writes checkpoints a folder of its own in that of the run, unless the user gave it one.

    Its files are `step_N.ckpt` unless the user named them: in the name that it would choose, `=` has a meaning for Hydra.
    Raises UserError for the folder of the run's own checkpoints, which it would overwrite.
    """
    own = run_dir / Path(LAST_CHECKPOINT).parent
    if callback.filename is None:
        callback.filename, callback.auto_insert_metric_name = "step_{step:07d}", False
    if callback.dirpath is None:
        callback.dirpath = str((own / name).absolute())
    elif Path(callback.dirpath).resolve() == own.resolve():
        raise UserError(f"callbacks.{name}.dirpath={callback.dirpath}: the run's own checkpoints lie there; need another folder")


def must_be_finite(trainer: Trainer, module: BaseModule) -> None:
    """Raises UserError if a weight or an average is not finite; see `nonfinite_weight`."""
    if (name := nonfinite_weight(trainer, module)) is not None:
        raise UserError(f"{name} is not finite at the end, step {trainer.global_step}: {ADVICE}")


def fit_module(
    cfg: DictConfig,
    module: BaseModule,
    datamodule: ImageDataModule,
    callbacks: list[Callback],
    stopped: LastCheckpoint | None,
    is_new: bool,
    leave_report: LeaveReport | None,
) -> Trainer:
    """Trains and returns the Trainer. Gives a folder that is new back if an error ends the run before its first step is done.

    Raises UserError if the weights that come out are not finite, which no callback need have noticed.
    """
    trainer = None
    try:
        trainer = make_trainer(cfg, module.config, callbacks, stopped)
        leave_out_empty_hooks(trainer.callbacks, module)  # type: ignore[attr-defined]
        with recorded_run(trainer, module, stopped):
            trainer.fit(module, datamodule=datamodule, ckpt_path=stopped.path if stopped else None, weights_only=True)
            must_be_finite(trainer, module)
    except Exception:  # of any kind: in their first step, classes of somebody else meet the device and the gradients
        if is_new and (trainer is None or trainer.global_step == 0):
            withdraw(Path(cfg.run_dir))
        raise
    except (KeyboardInterrupt, SystemExit):  # Lightning makes SystemExit of Ctrl-C
        if trainer is not None and trainer.is_global_zero:
            report_stop(trainer, module)
            finish(cfg, leave_report)
        raise
    return trainer
