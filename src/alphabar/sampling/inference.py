"""Inference with a checkpoint: its settings, and what they make of it on one or many devices."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.thresholdings import Static
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.runs.checkpoint import LACKS, FrozenPartPaths, frozen_parts
from alphabar.runs.ema.profiles import MAX_LENGTH
from alphabar.runs.run_dir import claim
from alphabar.sampling.cascade import cascade_job, must_be_a_cascade, samplers_for
from alphabar.sampling.conditions import Conditions, ImagesByIndex, expand_labels, null_conditions, prompt_conditions
from alphabar.sampling.guidance_config import Guide, guidance_label, guided_stages
from alphabar.sampling.model import Loaded, load_model
from alphabar.sampling.sampling_job import Generated, SamplingJob, must_fit

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
DEFAULT_SAMPLER = DDIM(num_steps=50, thresholding=Static())  # that of the configuration


def launch(run_dir: str, accelerator: str, devices: int | str, precision: Precision = "32-true") -> Fabric:
    """Starts the processes of a command and claims its folder, `run_dir`; returns the Fabric of this process.

    Raises UserError for devices that do not exist, or a folder that is not empty.
    """
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"accelerator={accelerator} devices={devices}: {' '.join(str(error).split())}") from error
    claim(Path(run_dir))
    fabric.launch()
    return fabric


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Settings of inference: which checkpoint, with which weights, on which devices, and how images are drawn from it.

    Image i depends on the weights, the sampler, the guidance, the condition of image i, the seed and i alone.

    checkpoint: None only where images in files are evaluated. stages: the checkpoints of upstream models of a cascade, first to
        last, each conditioned on the samples of the one before; the first gets the condition of the user.
    run_dir: the folder of the command. num: the number of images. batch_size: images at a time on each device.
    weights: "ema" or "raw"; those of upstream models are chosen by this alone.
    ema_length: sigma_rel of a power-function average that is made from the snapshots of the run, in place of the average that the
        run itself used. ema_decay: the decay of an exponential average that the run kept beside that.
    codec_name, clip_name: see `FrozenPartPaths`. data_root: where the checkpoint's data lie now; None: as in training.
    labels: for models of classes, 3, [3, 5], "all" or "0-9". prompt: for models of texts; prompts: a file with one prompt a line.
        Image i has label or prompt i, modulo their number; without any it has no condition. negative: a prompt to be led away from.
    files: an image, or a folder of images; None: held-out images of the checkpoint's data.
    Raises ValueError unless num >= 1 and batch_size >= 1, for an average that is none or that weights=raw leaves out, for more than
    one of labels, prompt and prompts, or of files and data_root, and for a negative prompt without guidance.
    """

    checkpoint: str | None = None
    stages: Sequence[str] = ()
    run_dir: str
    num: int = 64
    seed: int = 0
    weights: Literal["ema", "raw"] = "ema"
    ema_length: float | None = None
    ema_decay: float | None = None
    codec_name: str | None = None
    clip_name: str | None = None
    data_root: str | None = None
    batch_size: int = 64
    accelerator: str = "auto"
    devices: int | str = 1
    precision: Precision = "32-true"
    sampler: Sampler = DEFAULT_SAMPLER
    guidance: Guide | None = None
    labels: Sequence[int | str] | int | str | None = None
    prompt: str | None = None
    prompts: str | None = None
    negative: str | None = None
    files: str | None = None

    def __post_init__(self) -> None:
        if self.num < 1 or self.batch_size < 1:
            raise ValueError(f"need num >= 1 and batch_size >= 1, got num={self.num}, batch_size={self.batch_size}")
        averages = self._given("ema_length", "ema_decay")
        if averages and self.weights == "raw":
            raise ValueError(f"{averages[0]}: need weights=ema, got weights=raw, which are not averaged")
        if len(averages) > 1:
            raise ValueError(f"need ema_length or ema_decay, got {' '.join(averages)}")
        if self.ema_length is not None and not 0 < self.ema_length <= MAX_LENGTH:
            raise ValueError(f"need 0 < ema_length <= {MAX_LENGTH:.5f}, that of the plain mean, got {averages[0]}")
        if len(prompts := self._given("labels", "prompt", "prompts")) > 1:
            raise ValueError(f"need one of labels, prompt and prompts, got {' '.join(prompts)}")
        if self.negative is not None and self.guidance is None:
            raise ValueError("negative: need guidance=classifier_free or guidance=apg, which lead away from it, got guidance=none")
        if self.files is not None and self.data_root is not None:
            raise ValueError(f"need images or data_root, got images={self.files} data_root={self.data_root}")

    def _given(self, *keys: str) -> list[str]:
        return [f"{key}={vars(self)[key]}" for key in keys if vars(self)[key] is not None]

    @property
    def checkpoints(self) -> list[str]:
        """The paths of all models, in the order in which they draw. Raises UserError if there is no checkpoint."""
        if self.checkpoint is None:
            raise UserError("checkpoint: missing, give checkpoint=...")
        return [*self.stages, self.checkpoint]

    @property
    def weights_label(self) -> str:
        """The weights in the names of figures: ema, raw, ema0.15 or decay0.99."""
        if self.ema_length is not None:
            return f"ema{self.ema_length}"
        return self.weights if self.ema_decay is None else f"decay{self.ema_decay}"

    def identity(self, step: int) -> dict[str, object]:
        """Returns what receipts say of the checkpoint, which was written at `step`."""
        return {"checkpoint": self.checkpoint, "sha256": short_hash(user_path(self.checkpoints[-1])), "step": step}

    def start(self, check: Callable[[Loaded], None]) -> tuple[Fabric, Loaded]:
        """Returns the Fabric of this process, and the model on its device.

        check: is called before anything is written, and raises UserError if the model does not do.
        Raises UserError for a bad checkpoint, devices that do not exist, or a folder that is not empty.
        """
        loaded = self.load()
        check(loaded)
        fabric = launch(self.run_dir, self.accelerator, self.devices, self.precision)
        for each in loaded.chain:
            each.model.to(fabric.device)
        return fabric, loaded

    def load(self) -> Loaded:
        """Returns the model with its upstream models, on the CPU. Raises UserError for a bad checkpoint."""
        *upstream, path = self.checkpoints
        paths = FrozenPartPaths(self.codec_name, self.clip_name)
        before = tuple(load_model(each, self.weights, paths=paths) for each in upstream)
        loaded = load_model(path, self.weights, self.ema_length, self.ema_decay, paths)._replace(before=before)
        for key, name in paths._asdict().items():
            if name is not None and not any(frozen_parts(each.config)[key] for each in loaded.chain):
                raise UserError(f"{key}={name}: this model is {LACKS[key]}")
        return loaded

    def must_draw(self, loaded: Loaded) -> None:
        """Raises UserError if the model cannot draw images with this sampler, guidance and condition."""
        must_be_a_cascade(loaded.chain, self.checkpoints)
        self.conditions(loaded)
        parts = (loaded.chain, self.denoisers(loaded), samplers_for(loaded.chain, self.sampler))
        for path, each, denoiser, sampler in zip(self.checkpoints, *parts, strict=True):
            try:
                must_fit(sampler, denoiser, each.model.codec, each.shape, each.model.conditioner.null(1))
            except UserError as error:
                raise UserError(f"{path}: {error}" if loaded.before else str(error)) from error

    def sampler_for(self, loaded: Loaded) -> Sampler:
        """Returns the sampler, without thresholding where the space of the model has no bounds."""
        return samplers_for(loaded.chain, self.sampler)[-1]

    def label(self, loaded: Loaded) -> str:
        """Returns what the names of figures say of it: "ema-ddim50-cfg2.0", or "...-cascade2" for two models."""
        stages = f"-cascade{len(loaded.chain)}" if loaded.before else ""
        sampler = self.sampler_for(loaded).label(loaded.model.denoiser.schedule)
        return f"{self.weights_label}-{sampler}{guidance_label(self.guidance)}{stages}"

    def prompt_list(self, loaded: Loaded) -> list[str]:
        """Returns the labels or prompts, of which image i has number i modulo their number; empty without a condition.

        Raises UserError for a file that cannot be read, or for labels if the model was not trained on classes.
        """
        conditioner = loaded.first.model.conditioner
        if self.prompt is not None:
            return [self.prompt]
        if self.prompts is not None:
            return read_prompts(self.prompts)
        if self.labels is None:
            return []
        if not conditioner.classes:
            raise UserError(f"labels={self.labels}: this model was not trained on classes (conditioner=class_label)")
        return expand_labels(self.labels, len(conditioner.classes))

    def conditions(self, loaded: Loaded) -> Conditions:
        """Returns the conditions of the first model. Raises UserError for prompts that are invalid for it."""
        prompts, conditioner = self.prompt_list(loaded), loaded.first.model.conditioner
        key = "labels" if self.labels is not None else "prompt" if self.prompt is not None else "prompts"
        return prompt_conditions(conditioner, prompts, key) if prompts else null_conditions(conditioner)

    def denoisers(self, loaded: Loaded) -> list[Denoiser]:
        """Returns the denoiser of each model, guided if there is guidance. Raises UserError if they cannot be guided so."""
        null = None
        if self.negative is not None:
            null = prompt_conditions(loaded.first.model.conditioner, [self.negative], "negative")([0])
        return guided_stages([each.model for each in loaded.chain], self.guidance, null)

    def denoiser(self, loaded: Loaded) -> Denoiser:
        """Returns the denoiser of the last model."""
        return self.denoisers(loaded)[-1]

    def job(
        self,
        fabric: Fabric,
        loaded: Loaded,
        conditions: Conditions,
        num: int,
        seed: int | None = None,
        on_step: Callable[[], object] = lambda: None,
        wrap_upstream: Callable[[ImagesByIndex], ImagesByIndex] = lambda images: images,
        broken: set[int] | None = None,
    ) -> SamplingJob:
        """Returns the job of the last model for `num` images, if the first one has `conditions`; seed: None: that of the settings.

        on_step, wrap_upstream, broken: of cascades alone, see `cascade_job`.
        """
        chain, seed, size = loaded.chain, self.seed if seed is None else seed, min(self.batch_size, num)
        samplers = samplers_for(chain, self.sampler)
        if not loaded.before:
            return SamplingJob(samplers[-1], loaded.model.codec, loaded.shape, seed, size, conditions)
        parts = (chain, self.denoisers(loaded), samplers)
        return cascade_job(*parts, conditions, seed, size, fabric.device, on_step, wrap_upstream, broken)

    def images(
        self,
        fabric: Fabric,
        loaded: Loaded,
        conditions: Conditions,
        seed: int | None = None,
        wrap_upstream: Callable[[ImagesByIndex], ImagesByIndex] = lambda images: images,
    ) -> Iterator[Generated]:
        """Yields the images of this process, with a progress bar over sampler steps on the first process; see `job`."""
        samplers = samplers_for(loaded.chain, self.sampler)
        schedules = [each.model.denoiser.schedule for each in loaded.chain]
        steps = sum(len(sampler.times(schedule)) - 1 for sampler, schedule in zip(samplers, schedules, strict=True))
        is_shown = fabric.is_global_zero and sys.stderr.isatty()
        ranks = (fabric.global_rank, fabric.world_size)
        with tqdm(unit="step", desc=f"{self.num} images", disable=not is_shown) as bar:
            broken: set[int] = set()  # images whose upstream samples have NaN or infinity
            job = self.job(fabric, loaded, conditions, self.num, seed, bar.update, wrap_upstream, broken)
            bar.reset(steps * len(list(job.batches(self.num, *ranks))))
            with torch.no_grad(), fabric.autocast():
                for part in job.images(self.denoiser(loaded), self.num, fabric.device, *ranks, on_step=bar.update):
                    yield part.without(broken)


def read_prompts(path: str) -> list[str]:
    """Returns the lines of a text file that are not empty. Raises UserError if there are none."""
    try:
        found = [line.strip() for line in user_path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts={path}: cannot be read as text ({type(error).__name__})") from error
    if not found:
        raise UserError(f"prompts={path}: there is no prompt in this file, need one a line")
    return found


def short_hash(path: Path) -> str:
    """Returns the first 16 digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
