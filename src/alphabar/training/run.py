"""One training run, from its configuration to its result."""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from alphabar.config.build import build
from alphabar.config.interpolation import written
from alphabar.data.datamodule import ImageDataModule
from alphabar.diffusion.noise import derive_seed
from alphabar.errors import UserError
from alphabar.files.atomic import write_text
from alphabar.models.codecs import Codec
from alphabar.runs.console import quiet, shown
from alphabar.runs.resume import Stopped, must_stay, take_up
from alphabar.runs.run_dir import claim, withdraw
from alphabar.sampling.guidance_config import guided
from alphabar.sampling.sampling_job import must_fit
from alphabar.training.callbacks.checkpoints import Checkpoints
from alphabar.training.callbacks.fid import FID
from alphabar.training.callbacks.film import Film
from alphabar.training.callbacks.samples import Samples
from alphabar.training.loggers.metrics_file import MetricsFile
from alphabar.training.modules.base import BaseModule
from alphabar.training.modules.diffusion import DiffusionModule
from alphabar.training.profile import report_profile

PRECISIONS = ("32-true", "32", "bf16-mixed", "16-mixed")


def train(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Builds what the configuration names, trains it, says where everything is, and returns the run's result."""
    quiet()
    stopped = None
    if cfg.resume is not None:
        cfg, stopped = take_up(cfg, overrides)
    else:
        must_stay(cfg)
    folder = Path(cfg.run_dir)
    check_trainer(cfg)
    datamodule: ImageDataModule = build(cfg.data, "data")
    cfg.shape = datamodule.shape._asdict()
    cfg.space = space_of(cfg, datamodule)
    write_digests(cfg)
    if "${num_classes}" in str(written(cfg.conditioner)):
        cfg.num_classes = num_classes(datamodule)
    torch.manual_seed(derive_seed("weights", cfg.seed))
    module: BaseModule = build(cfg.module, "module")
    module.learn(datamodule)
    if isinstance(module, DiffusionModule):
        must_sample(cfg, module, datamodule)
    callbacks = [callback for callback in build(cfg.callbacks, "callbacks").values() if callback is not None]
    if isinstance(module, DiffusionModule) and not module.codec.makes_images:
        must_draw_nothing(callbacks)
    if stopped is None:
        claim(folder)
    trainer, begin = None, time.perf_counter()
    try:
        trainer = make_trainer(cfg, callbacks, stopped)
        trainer.fit(module, datamodule=datamodule, ckpt_path=stopped.path if stopped else None, weights_only=True)
    except UserError:
        if stopped is None and (trainer is None or trainer.global_step == 0):
            withdraw(folder)
        raise
    result = outcome(trainer, module, time.perf_counter() - begin)
    report_profile(trainer)
    if trainer.is_global_zero:
        report(
            result,
            module,
            more=f"trainer.max_steps={2 * trainer.max_steps}" if trainer.max_steps > 0 else "+trainer.max_epochs=...",
        )
    return result


def space_of(cfg: DictConfig, datamodule: ImageDataModule) -> dict[str, int]:
    """The channels and the resolution of what the network sees; what is no picture counts as one of resolution 1.

    Raises UserError if the codec encodes no images of the data's size.
    """
    codec: Codec = build(cfg.codec, "codec")
    try:
        channels, resolution, *_ = *codec.space(*datamodule.shape), 1
    except ValueError as error:
        raise UserError(f"codec: {error}") from error
    return {"channels": channels, "resolution": resolution}


def write_digests(cfg: DictConfig) -> None:
    """Writes down which frozen parts the run is trained with, so that no others are ever taken for them.

    Raises ConfigError if they are not those that a resumed run began with.
    """
    for key in ("codec", "conditioner"):
        if "digest" in cfg[key]:
            cfg[key].digest = build(cfg[key], key).digest


def must_draw_nothing(callbacks: list[Callback]) -> None:
    """Raises UserError for a callback that draws pictures, in the run of a model that makes none."""
    names = {Samples: "samples", Film: "film", FID: "fid"}
    for callback in callbacks:
        if type(callback) in names:
            raise UserError(f"callbacks.{names[type(callback)]}: this codec makes no images: choose callbacks=prior")


def must_sample(cfg: DictConfig, module: DiffusionModule, datamodule: ImageDataModule) -> None:
    """Raises UserError if sampler and guidance do not suit the model."""
    guide = None if cfg.guidance is None else build(cfg.guidance, "guidance")
    must_fit(build(cfg.sampler, "sampler"), guided(module, guide), module.codec, datamodule.shape, module.conditioner.null(1))


def num_classes(datamodule: ImageDataModule) -> int:
    """Of the data. Raises UserError if its images have no classes."""
    datamodule.prepare_data()  # the names may lie in files that are to be downloaded
    if datamodule.classes is None:
        raise UserError("conditioner=class_label needs images with classes, and these data have none")
    return len(datamodule.classes)


def check_trainer(cfg: DictConfig) -> None:
    """Refuses what the Trainer would accept, to fail or to train badly later. Raises UserError."""
    if str(cfg.trainer.precision) not in PRECISIONS:
        raise UserError(
            f"trainer.precision={cfg.trainer.precision}: need one of {', '.join(PRECISIONS)}; "
            "weights, schedule and noise must stay float32, of which lower precisions tell only half of the steps apart"
        )
    for key in ("log_every_n_steps", "accumulate_grad_batches"):
        if cfg.trainer[key] < 1:
            raise UserError(f"trainer.{key}: need a number >= 1, got {cfg.trainer[key]}")
    overfit = cfg.trainer.get("overfit_batches", 0)
    if overfit != int(overfit) or overfit < 0:
        raise UserError(f"trainer.overfit_batches={overfit}: need a whole number of batches")
    if cfg.trainer.get("reload_dataloaders_every_n_epochs"):
        raise UserError("trainer.reload_dataloaders_every_n_epochs: batches come from one endless stream, need 0")


def make_trainer(cfg: DictConfig, callbacks: list[Callback], stopped: Stopped | None) -> Trainer:
    """The Trainer with the run's folder, callbacks and loggers; the configuration is written down."""
    folder = Path(cfg.run_dir)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    for callback in callbacks:
        if isinstance(callback, Checkpoints):
            callback.config = config
    make: dict[str, partial[Logger]] = build(cfg.logger, "logger")
    names: dict[str, Any] = {"name": cfg.name or folder.name, "group": os.environ.get("ALPHABAR_SWEEP")}
    others = [make_logger(run_dir=str(folder), **names) for make_logger in make.values()]
    loggers = [MetricsFile(folder, stopped.step if stopped else None), *others]
    trainer = build(cfg.trainer, "trainer")(default_root_dir=str(folder), callbacks=callbacks, logger=loggers)
    if trainer.is_global_zero:
        write_config(config, folder / "config.yaml", stopped)
        for logger in others:
            logger.log_hyperparams(config)
        print(f"run folder: {shown(folder)}", flush=True)
    return trainer


def write_config(config: dict[str, Any], path: Path, stopped: Stopped | None) -> None:
    """Writes the resolved configuration; that of an earlier sitting, if it was another one, is kept beside it."""
    text = OmegaConf.to_yaml(OmegaConf.create(config))
    if stopped is not None and path.read_text(encoding="utf-8") != text:
        path.replace(path.with_name(f"config_until_step_{stopped.step}.yaml"))
    write_text(path, text)


def outcome(trainer: Trainer, module: BaseModule, seconds: float) -> dict[str, object]:
    """What a sweep, or whoever started the run, wants to know of it."""
    figures = module.figures
    name = next((name for name in figures if name.startswith("fid/n")), None)
    floor = next((value for name, value in figures.items() if name.startswith("fid/floor")), None)
    fid = {"name": name, "value": figures[name], "floor": floor} if name else None
    loss, images, trained = (figures.get(f"train/{name}") for name in ("loss", "images", "seconds"))
    return {
        "loss": loss,
        "fid": fid,
        "objective": fid["value"] if fid else module.sweep_objective(),
        "images_per_second": images / trained if images and trained else None,
        "steps": trainer.global_step,
        "seconds": seconds,
        "folder": str(trainer.default_root_dir),
        "wandb": next((logger.version for logger in trainer.loggers if isinstance(logger, WandbLogger)), None),
    }


def report(result: dict[str, Any], module: BaseModule, more: str) -> None:
    """Says what came out, where everything is and what to do next."""
    folder = shown(Path(result["folder"]))
    line = f"done: {result['steps']:,} steps in {result['seconds']:.0f} s"
    if result["loss"] is not None:
        line += f", loss {result['loss']:.4f}"
    if result["fid"] is not None:
        floor = result["fid"]["floor"]
        line += f", {result['fid']['name']} {result['fid']['value']:.3g}"
        line += f" (floor {floor:.3g})" if floor is not None else ""
    print(line)
    print(f"  figures      {folder}/metrics.csv  config.yaml")
    print(f"  checkpoints  {folder}/checkpoints/")
    for line in module.next_steps:
        print(f"  {line.format(folder=folder)}")
    print(f"  go on        python train.py resume={folder} {more}")
