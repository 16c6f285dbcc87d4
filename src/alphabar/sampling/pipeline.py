"""A pipeline: the models of a checkpoint and of its upstream stages, with the settings by which they are sampled."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.launchers import _SubprocessScriptLauncher
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from alphabar.data import Shape
from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.noise import derive_seed
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.models.codecs import Codec
from alphabar.progress import counted, show_progress
from alphabar.resolution import Resolution, format_resolution
from alphabar.runs.checkpoints.checkpoint import LACKS, FrozenPartPaths, checkpoint_hash, frozen_parts
from alphabar.runs.folders.run_dir import claim, is_first_process
from alphabar.runs.processes.ranks import watch_ranks
from alphabar.sampling.cascade import (
    CONDITION_STREAM,
    cascade_job,
    check_cascade,
    samplers_for,
    source_conditions,
    source_images,
)
from alphabar.sampling.conditions import (
    Conditions,
    ImagesByIndex,
    expand_labels,
    null_conditions,
    prompt_conditions,
    read_prompts,
    read_vectors,
    vector_prompt,
)
from alphabar.sampling.guidance_config import guidance_label, guided_stages
from alphabar.sampling.inference import Inference
from alphabar.sampling.model import LoadedModel, TrainedModel, load_model
from alphabar.sampling.sampling_job import NUM_TRIED, SampleBatch, SamplingJob, check_sampler
from alphabar.speed import autocast, prepare

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pipeline:
    """A model with its upstream models, and with the sampler, the guidance and the conditions of the settings.

    loaded: the last model, whose samples are the result; it knows the models before it.
    """

    settings: Inference
    loaded: LoadedModel

    @property
    def model(self) -> TrainedModel:
        """The last model."""
        return self.loaded.model

    @property
    def codec(self) -> Codec:
        """The codec of the last model."""
        return self.loaded.model.codec

    @cached_property
    def samplers(self) -> list[Sampler]:
        """The sampler of each model, without thresholding where the space of the model has no bounds."""
        return samplers_for(self.loaded.cascade, self.settings.sampler)

    @property
    def sampler(self) -> Sampler:
        """The sampler of the last model."""
        return self.samplers[-1]

    @property
    def label(self) -> str:
        """The part of a figure's name that says how samples were drawn: "ema-ddim50-cfg2.0", or "...-cascade2" for two models."""
        stages = f"-cascade{len(self.loaded.cascade)}" if self.loaded.upstream else ""
        sampler = self.sampler.label(self.model.denoiser.schedule)
        return f"{self.settings.weights_label}-{sampler}{guidance_label(self.settings.guidance)}{stages}"

    def autocast(self) -> AbstractContextManager[object]:
        """Returns the context in which the networks have the precision of the settings."""
        return autocast(self.model.device, self.settings.speed.precision)

    def record(self) -> dict[str, Any]:
        """Returns the record of the models for receipts: the file of each with its hash and step, the sampler and the guidance."""
        paths = zip(self.settings.checkpoints, self.loaded.cascade, strict=True)
        return {
            "checkpoints": [{"checkpoint": path, "sha256": checkpoint_hash(path), "step": each.step} for path, each in paths],
            "weights": self.settings.weights_label,
            "sampler": self.sampler,
            "guidance": self.settings.guidance,
            "speed": str(self.settings.speed),
        }

    def check(self) -> None:
        """Raises UserError if the models cannot draw images with this sampler, guidance and condition.

        Warns of a size of which the last one has seen no images in training.
        """
        stages, paths = self.loaded.cascade, self.settings.checkpoints
        check_cascade(stages, paths)
        self.conditions()
        num = min(NUM_TRIED, self.settings.images_at_a_time)
        for path, stage, denoiser, sampler in zip(paths, stages, self.denoisers(), self.samplers, strict=True):
            try:
                check_sampler(sampler, denoiser, stage.model.codec, stage.shape, stage.model.conditioner.null(num), num)
            except UserError as error:
                raise UserError(f"{path}: {error}" if self.loaded.upstream else str(error)) from error
        known, resolution = self.loaded.trained_resolutions, self.loaded.shape.resolution
        if resolution not in known and is_first_process():
            sizes = ", ".join(map(format_resolution, known))
            log.warning("resolution=%s: this model was trained on images of %s", format_resolution(resolution), sizes)

    @cached_property
    def prompts(self) -> list[str]:
        """The labels, prompts or vectors, of which image i has number i modulo their number; empty without a condition.

        Raises UserError for a file that cannot be read, or for labels or vectors if the model was not trained on any.
        """
        settings, conditioner = self.settings, self.loaded.first.model.conditioner
        if settings.prompt is not None:
            return [settings.prompt]
        if settings.prompts is not None:
            return read_prompts(settings.prompts) if isinstance(settings.prompts, str) else list(settings.prompts)
        if (vectors := settings.vectors if settings.vector is None else [settings.vector]) is not None:
            if not conditioner.vector_length:
                key = "vectors" if settings.vector is None else "vector"
                raise UserError(f"{key}={vars(settings)[key]}: this model was not trained on vectors (conditioner=vector)")
            return read_vectors(vectors) if isinstance(vectors, str) else list(map(vector_prompt, vectors))
        if settings.labels is None:
            return []
        if not conditioner.classes:
            raise UserError(f"labels={settings.labels}: this model was not trained on classes (conditioner=class_label)")
        return expand_labels(settings.labels, conditioner.classes)

    def conditions(self) -> Conditions:
        """Returns the conditions of the first model. Raises UserError for prompts that are invalid for it."""
        settings, conditioner = self.settings, self.loaded.first.model.conditioner
        key = next((key for key in ("labels", "prompt", "vector", "vectors") if vars(settings)[key] is not None), "prompts")
        return prompt_conditions(conditioner, self.prompts, key) if self.prompts else null_conditions(conditioner)

    def conditions_and_sources(self, fabric: Fabric) -> tuple[Conditions, Tensor | None]:
        """Returns the conditions of the first model, and the images that they are of, [N, C, H, W], unless it is a cascade's.

        Raises UserError for images that are not at hand, or that the model cannot be conditioned on.
        """
        settings, first = self.settings, self.loaded.first
        if not first.model.conditioner.takes_images:
            if settings.files is not None or settings.data_root is not None:
                given = f"images={settings.files}" if settings.files is not None else f"data_root={settings.data_root}"
                name = type(first.model.conditioner).__name__
                raise UserError(f"{given}: this model is not conditioned on images (it has {name})")
            return self.conditions(), None
        sources = source_images(first, settings.files, settings.data_root, fabric, settings.end)
        conditions = source_conditions(first, sources, derive_seed(CONDITION_STREAM, "given", settings.seed))
        return conditions, None if self.loaded.upstream else sources

    def denoisers(self) -> list[Denoiser]:
        """Returns the denoiser of each model, with guidance if there is any. Raises UserError for unsuitable guidance."""
        null = None
        if self.settings.negative is not None:
            null = prompt_conditions(self.loaded.first.model.conditioner, [self.settings.negative], "negative")([0])
        return guided_stages([stage.model for stage in self.loaded.cascade], self.settings.guidance, null)

    def denoiser(self) -> Denoiser:
        """Returns the denoiser of the last model."""
        return self.denoisers()[-1]

    def job(
        self,
        conditions: Conditions,
        num: int,
        seed: int | None = None,
        on_step: Callable[[], object] = lambda: None,
        wrap_upstream: Callable[[ImagesByIndex], ImagesByIndex] = lambda images: images,
        nonfinite: set[int] | None = None,
        num_devices: int = 1,
    ) -> SamplingJob:
        """Returns the job of the last model for `num` images, if the first one has `conditions`; seed: None: that of the settings.

        num_devices: that share the images. on_step, wrap_upstream, nonfinite: used by cascades alone, see `cascade_job`.
        """
        seed, batch_size = self.settings.seed if seed is None else seed, self.settings.samples_at_a_time(num, num_devices)
        parts = (self.loaded.cascade, self.denoisers(), self.samplers)
        return cascade_job(*parts, conditions, seed, batch_size, self.model.device, on_step, wrap_upstream, nonfinite)

    def images(
        self,
        fabric: Fabric,
        conditions: Conditions,
        seed: int | None = None,
        wrap_upstream: Callable[[ImagesByIndex], ImagesByIndex] = lambda images: images,
    ) -> Iterator[SampleBatch]:
        """Yields the images of this process, with a progress bar over sampler steps on the first process; see `job`."""
        num = self.settings.num
        schedules = [stage.model.denoiser.schedule for stage in self.loaded.cascade]
        steps = sum(len(sampler.times(schedule)) - 1 for sampler, schedule in zip(self.samplers, schedules, strict=True))
        ranks = (fabric.global_rank, fabric.world_size)
        with show_progress(counted(num, "image"), None, "step", fabric.is_global_zero) as bar:
            nonfinite: set[int] = set()  # images whose upstream samples have NaN or infinity
            job = self.job(conditions, num, seed, bar.update, wrap_upstream, nonfinite, fabric.world_size)
            bar.reset(steps * len(list(job.batches(num, *ranks))))
            with torch.no_grad(), self.autocast():
                for batch in job.images(self.denoiser(), num, fabric.device, *ranks, bar.update, self.settings.first):
                    yield batch.mark_nonfinite(nonfinite)


def launch(settings: Inference) -> Fabric:
    """Starts the processes of a command and claims its folder; returns the Fabric of this process.

    Raises UserError for devices that do not exist, or a folder that is not empty.
    """
    accelerator, devices = settings.accelerator, settings.devices
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"accelerator={accelerator} devices={devices}: {' '.join(str(error).split())}") from error
    claim(Path(settings.run_dir))
    if isinstance(fabric.strategy.launcher, _SubprocessScriptLauncher):
        watch_ranks(fabric.strategy.launcher)
    fabric.launch()
    return fabric


def load_pipeline(settings: Inference) -> Pipeline:
    """Returns the pipeline of the settings, on the CPU. Raises UserError for a bad checkpoint."""
    *upstream_paths, path = settings.checkpoints
    frozen = FrozenPartPaths(settings.codec_name, settings.clip_name)
    upstream = tuple(load_model(each, settings.weights, paths=frozen) for each in upstream_paths)
    loaded = load_model(path, settings.weights, settings.ema_length, settings.ema_decay, frozen)._replace(upstream=upstream)
    loaded = loaded if settings.resolution is None else resized(loaded, settings.resolution)
    for key, name in frozen._asdict().items():
        if name is not None and not any(frozen_parts(stage.config)[key] for stage in loaded.cascade):
            raise UserError(f"{key}={name}: this model is {LACKS[key]}")
    return Pipeline(settings, loaded)


def resized(loaded: LoadedModel, resolution: Resolution) -> LoadedModel:
    """Returns the model for images of another size. Raises UserError unless its codec takes them, and in a cascade."""
    if loaded.upstream:
        raise UserError(f"resolution={format_resolution(resolution)}: the models of a cascade have the sizes of their training")
    try:
        shape = Shape.of(loaded.shape.channels, resolution)
        loaded.model.codec.space(*shape)
    except ValueError as error:
        raise UserError(f"resolution={format_resolution(resolution)}: {error}") from error
    return loaded._replace(shape=shape)


def start_pipeline(settings: Inference, check: Callable[[Pipeline], None] = Pipeline.check) -> tuple[Fabric, Pipeline]:
    """Returns the Fabric of this process, and the pipeline on its device.

    check: is called before anything is written, and raises UserError if the models are not suitable.
    Raises UserError for a bad checkpoint, devices that do not exist, or a folder that is not empty.
    """
    pipeline = load_pipeline(settings)
    check(pipeline)
    fabric = launch(settings)
    for stage in pipeline.loaded.cascade:
        prepare(stage.model.to(fabric.device), settings.speed)
    return fabric, pipeline
