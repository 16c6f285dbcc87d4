"""What sampling and evaluation share: a checkpoint, brought onto one or many devices."""

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.runs.checkpoint import LACKS, FrozenPartPaths, frozen_parts
from alphabar.runs.console import quiet
from alphabar.runs.ema.profiles import MAX_LENGTH
from alphabar.runs.run_dir import claim
from alphabar.sampling.cascade import cascade_job, must_be_a_cascade, samplers_for
from alphabar.sampling.conditions import Conditions, ImagesByIndex, expand_labels, null_conditions, prompt_conditions
from alphabar.sampling.guidance_config import Guide, guidance_label, guided_stages
from alphabar.sampling.model import Loaded, load
from alphabar.sampling.sampling_job import Generated, SamplingJob, must_fit

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def launch(run_dir: str, accelerator: str, devices: int | str, precision: Precision = "32-true") -> Fabric:
    """The processes of a command, which has `run_dir` for itself.

    Raises UserError for devices that do not exist, or a folder that is not empty.
    """
    quiet()
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"accelerator={accelerator} devices={devices}: {' '.join(str(error).split())}") from error
    claim(Path(run_dir))
    fabric.launch()
    return fabric


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """What is done with a checkpoint, on one or many devices; its weights are chosen by what follows, those of models before it by
    `weights` alone.

    num: images. weights: "ema" or "raw". batch_size: images at a time on each device.
    ema_length: sigma_rel of a power-function average that is made from the snapshots of the run, in place of the average that the
        run itself used. ema_decay: of an exponential average that was kept beside that.
    codec_name, clip_name: see `FrozenPartPaths`.
    Raises ValueError unless num >= 1 and batch_size >= 1, and for an average that is none, or that weights=raw leaves out.
    """

    checkpoint: str
    run_dir: str
    num: int = 64
    seed: int = 0
    weights: Literal["ema", "raw"] = "ema"
    ema_length: float | None = None
    ema_decay: float | None = None
    codec_name: str | None = None
    clip_name: str | None = None
    batch_size: int = 64
    accelerator: str = "auto"
    devices: int | str = 1
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        if self.num < 1 or self.batch_size < 1:
            raise ValueError(f"need num >= 1 and batch_size >= 1, got num={self.num}, batch_size={self.batch_size}")
        given = [f"{name}={vars(self)[name]}" for name in ("ema_length", "ema_decay") if vars(self)[name] is not None]
        if given and self.weights == "raw":
            raise ValueError(f"{given[0]}: need weights=ema, got weights=raw, which are not averaged")
        if len(given) > 1:
            raise ValueError(f"need ema_length or ema_decay, got {' '.join(given)}")
        if self.ema_length is not None and not 0 < self.ema_length <= MAX_LENGTH:
            raise ValueError(f"need 0 < ema_length <= {MAX_LENGTH:.5f}, that of the plain mean, got {given[0]}")

    @property
    def weights_label(self) -> str:
        """Which weights, in the names of figures: ema, raw, ema0.15 or decay0.99."""
        if self.ema_length is not None:
            return f"ema{self.ema_length}"
        return self.weights if self.ema_decay is None else f"decay{self.ema_decay}"

    def identity(self, step: int) -> dict[str, object]:
        """Which checkpoint, for receipts. step: at which it was written."""
        return {"checkpoint": self.checkpoint, "sha256": short_hash(Path(self.checkpoint)), "step": step}

    @property
    @abstractmethod
    def earlier(self) -> Sequence[str]:
        """The checkpoints of models before it, first to last."""

    @abstractmethod
    def must_suit(self, loaded: Loaded) -> None:
        """Raises UserError if this cannot be done with the checkpoint; asked before anything is written."""

    def begin(self) -> tuple[Fabric, Loaded]:
        """The processes, and the model on their devices.

        Raises UserError for a bad or unsuitable checkpoint, devices that do not exist, or a folder that is not empty.
        """
        paths = FrozenPartPaths(self.codec_name, self.clip_name)
        before = tuple(load(path, self.weights, paths=paths) for path in self.earlier)
        loaded = load(self.checkpoint, self.weights, self.ema_length, self.ema_decay, paths)._replace(before=before)
        for key, name in paths._asdict().items():
            if name is not None and not any(frozen_parts(each.config)[key] for each in loaded.chain):
                raise UserError(f"{key}={name}: this model is {LACKS[key]}")
        self.must_suit(loaded)
        fabric = launch(self.run_dir, self.accelerator, self.devices, self.precision)
        for each in loaded.chain:
            each.model.to(fabric.device)
        return fabric, loaded


def lines(path: Path) -> list[str]:
    """Of a text file, without empty ones. Raises UserError if there are none."""
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts={path}: cannot be read as text ({type(error).__name__})") from error
    if not found:
        raise UserError(f"prompts={path}: there is no prompt in this file, need one a line")
    return found


def short_hash(path: Path) -> str:
    """The first 16 digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Inference(Command, ABC):
    """How images are drawn from a checkpoint: image i depends on the weights, the sampler, the guidance, what image i is told, the
    seed and i alone.

    stages: the checkpoints of earlier models, first to last, each told what the one before made; the first is told the words.
    labels: of a model with classes, 3, [3, 5], "all" or "0-9". prompt: of a model of texts; prompts: a file with one a line.
        Image i gets label or prompt i, over and over; None of them: nothing is told. negative: a prompt to be led away from.
    files: an image, or a folder of images; None: images of the checkpoint's own data that it was not trained on.
    data_root: where that data lies now; None: where it lay in training.
    Raises ValueError as `Command` does, for more than one of labels, prompt and prompts, or of files and data_root, and for a
    negative prompt without guidance.
    """

    sampler: Sampler
    guidance: Guide | None = None
    stages: Sequence[str] = ()
    labels: Sequence[int | str] | int | str | None = None
    prompt: str | None = None
    prompts: str | None = None
    negative: str | None = None
    files: str | None = None
    data_root: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [f"{key}={vars(self)[key]}" for key in ("labels", "prompt", "prompts") if vars(self)[key] is not None]
        if len(given) > 1:
            raise ValueError(f"need one of labels, prompt and prompts, got {' '.join(given)}")
        if self.negative is not None and self.guidance is None:
            raise ValueError("negative: need guidance=classifier_free or guidance=apg, which lead away from it, got guidance=none")
        if self.files is not None and self.data_root is not None:
            raise ValueError(f"need images or data_root, got images={self.files} data_root={self.data_root}")

    @property
    def earlier(self) -> Sequence[str]:
        return self.stages

    def must_suit(self, loaded: Loaded) -> None:
        paths = [*self.stages, self.checkpoint]
        must_be_a_cascade(loaded.chain, paths)
        self.told(loaded)
        parts = zip(paths, loaded.chain, self.denoisers(loaded), strict=True)
        samplers_for(loaded.chain, self.sampler)
        for path, each, denoiser in parts:
            codec = each.model.codec
            sampler = self.sampler if codec.is_bounded else replace(self.sampler, thresholding=None)
            try:
                must_fit(sampler, denoiser, codec, each.shape, each.model.conditioner.null(1))
            except UserError as error:
                raise UserError(f"{path}: {error}" if len(paths) > 1 else str(error)) from error

    def acting(self, loaded: Loaded) -> Sampler:
        """The sampler as it suits the space of the model; see `sampler_for`."""
        return samplers_for(loaded.chain, self.sampler)[-1]

    def label(self, loaded: Loaded) -> str:
        """In the names of figures: "ema-ddim50-cfg2.0", "...-cascade2" of two models."""
        stages = f"-cascade{len(loaded.chain)}" if loaded.before else ""
        sampler = self.acting(loaded).label(loaded.model.denoiser.schedule)
        return f"{self.weights_label}-{sampler}{guidance_label(self.guidance)}{stages}"

    def words(self, loaded: Loaded) -> list[str]:
        """What images are told, by index, starting anew at the end; empty for nothing. Raises UserError for what makes no sense."""
        conditioner = loaded.first.model.conditioner
        if self.prompt is not None:
            return [self.prompt]
        if self.prompts is not None:
            return lines(Path(self.prompts))
        if self.labels is None:
            return []
        if not conditioner.classes:
            raise UserError(f"labels={self.labels}: this model was not trained on classes (conditioner=class_label)")
        return expand_labels(self.labels, len(conditioner.classes))

    def told(self, loaded: Loaded) -> Conditions:
        """The condition of each image, for the first model. Raises UserError for words that mean nothing to it."""
        words, conditioner = self.words(loaded), loaded.first.model.conditioner
        key = "labels" if self.labels is not None else "prompt" if self.prompt is not None else "prompts"
        return prompt_conditions(conditioner, words, key) if words else null_conditions(conditioner)

    def denoisers(self, loaded: Loaded) -> list[Denoiser]:
        """Those of all models, with guidance if there is any. Raises UserError if they cannot be guided so."""
        null = None
        if self.negative is not None:
            null = prompt_conditions(loaded.first.model.conditioner, [self.negative], "negative")([0])
        return guided_stages([each.model for each in loaded.chain], self.guidance, null)

    def denoiser(self, loaded: Loaded) -> Denoiser:
        """That of the last model."""
        return self.denoisers(loaded)[-1]

    def generation(
        self,
        fabric: Fabric,
        loaded: Loaded,
        told: Conditions,
        num: int,
        seed: int | None = None,
        on_step: Callable[[], object] = lambda: None,
        watch: Callable[[ImagesByIndex], ImagesByIndex] = lambda images: images,
        broken: set[int] | None = None,
    ) -> SamplingJob:
        """What is drawn for `num` images, where the first model is told `told`; seed: None: the command's. The rest is as in
        `cascade_job`."""
        chain, size = loaded.chain, min(self.batch_size, num)
        parts = (chain, self.denoisers(loaded), samplers_for(chain, self.sampler))
        return cascade_job(*parts, told, self.seed if seed is None else seed, size, fabric.device, on_step, watch, broken)

    def images(
        self,
        fabric: Fabric,
        loaded: Loaded,
        told: Conditions,
        seed: int | None = None,
        watch: Callable[[ImagesByIndex], ImagesByIndex] = lambda images: images,
    ) -> Iterator[Generated]:
        """This process's share, with a progress bar over all steps of the samplers on the first process; see `generation`."""
        samplers = samplers_for(loaded.chain, self.sampler)
        schedules = [each.model.denoiser.schedule for each in loaded.chain]
        steps = sum(len(sampler.times(schedule)) - 1 for sampler, schedule in zip(samplers, schedules, strict=True))
        shown = fabric.is_global_zero and sys.stderr.isatty()
        ranks = (fabric.global_rank, fabric.world_size)
        with tqdm(unit="step", desc=f"{self.num} images", disable=not shown) as bar:
            broken: set[int] = set()
            generation = self.generation(fabric, loaded, told, self.num, seed, bar.update, watch, broken)
            bar.reset(steps * len(list(generation.batches(self.num, *ranks))))
            with torch.no_grad(), fabric.autocast():
                for part in generation.images(self.denoiser(loaded), self.num, fabric.device, *ranks, on_step=bar.update):
                    whole = torch.tensor([index not in broken for index in part.indices], device=part.finite.device)
                    yield part._replace(finite=part.finite & whole)
