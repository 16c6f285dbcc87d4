"""What sampling and evaluation share: a checkpoint, brought onto one or many devices."""

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.models.conditioners.class_label import ClassLabel
from alphabar.training.averages import MAX_LENGTH
from alphabar.training.checkpoint import Loaded, load
from alphabar.training.conditions import Conditions, nothing, of_words, spelt_out
from alphabar.training.generate import Generated, Generation, must_fit, suited
from alphabar.training.guiding import Guide, guidance_label, guided
from alphabar.training.run_dir import claim
from alphabar.training.screen import quiet

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
    """What is done with a checkpoint, on one or many devices.

    num: images. weights: "ema" or "raw". batch_size: images at a time on each device.
    ema_length: sigma_rel of a power-function average that is made from the snapshots of the run, in place of the average that the
        run itself used. ema_decay: of an exponential average that was kept beside that.
    Raises ValueError unless num >= 1 and batch_size >= 1, and for an average that is none, or that weights=raw leaves out.
    """

    checkpoint: str
    run_dir: str
    num: int = 64
    seed: int = 0
    weights: Literal["ema", "raw"] = "ema"
    ema_length: float | None = None
    ema_decay: float | None = None
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

    @abstractmethod
    def must_suit(self, loaded: Loaded) -> None:
        """Raises UserError if this cannot be done with the checkpoint; asked before anything is written."""

    def begin(self) -> tuple[Fabric, Loaded]:
        """The processes, and the model on their devices.

        Raises UserError for a bad or unsuitable checkpoint, devices that do not exist, or a folder that is not empty.
        """
        loaded = load(self.checkpoint, self.weights, self.ema_length, self.ema_decay)
        self.must_suit(loaded)
        fabric = launch(self.run_dir, self.accelerator, self.devices, self.precision)
        loaded.module.to(fabric.device)
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

    labels: of a model with classes, 3, [3, 5], "all" or "0-9". prompt: of a model of texts; prompts: a file with one a line.
        Image i gets label or prompt i, over and over; None of them: nothing is told. negative: a prompt to be led away from.
    Raises ValueError as `Command` does, for more than one of them, and for a negative prompt without guidance.
    """

    sampler: Sampler
    guidance: Guide | None = None
    labels: Sequence[int | str] | int | str | None = None
    prompt: str | None = None
    prompts: str | None = None
    negative: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [f"{key}={vars(self)[key]}" for key in ("labels", "prompt", "prompts") if vars(self)[key] is not None]
        if len(given) > 1:
            raise ValueError(f"need one of labels, prompt and prompts, got {' '.join(given)}")
        if self.negative is not None and self.guidance is None:
            raise ValueError("negative: need guidance=classifier_free or guidance=apg, which lead away from it, got guidance=none")

    def must_suit(self, loaded: Loaded) -> None:
        module = loaded.module
        self.told(loaded)
        must_fit(self.sampler, self.denoiser(loaded), module.codec, loaded.shape, module.conditioner.null(1))

    def acting(self, loaded: Loaded) -> Sampler:
        """The sampler as it suits the space of the model; see `suited`."""
        return suited(self.sampler, loaded.module.codec)

    def label(self, loaded: Loaded) -> str:
        """In the names of figures: "ema-ddim50-cfg2.0"."""
        return f"{self.weights_label}-{self.acting(loaded).label(loaded.module.denoiser.schedule)}{guidance_label(self.guidance)}"

    def start(self) -> tuple[Fabric, Loaded, Generation]:
        """The processes, the model on their devices, and what is to be drawn. Raises UserError as `begin` does."""
        fabric, loaded = self.begin()
        batch_size = min(self.batch_size, self.num)
        return (
            fabric,
            loaded,
            Generation(self.acting(loaded), loaded.module.codec, loaded.shape, self.seed, batch_size, self.told(loaded)),
        )

    def words(self, loaded: Loaded) -> list[str]:
        """What images are told, by index, starting anew at the end; empty for nothing. Raises UserError for what makes no sense."""
        conditioner = loaded.module.conditioner
        if self.prompt is not None:
            return [self.prompt]
        if self.prompts is not None:
            return lines(Path(self.prompts))
        if self.labels is None:
            return []
        if not isinstance(conditioner, ClassLabel):
            raise UserError(f"labels={self.labels}: this model was not trained on classes (conditioner=class_label)")
        return spelt_out(self.labels, conditioner.num_classes)

    def told(self, loaded: Loaded) -> Conditions:
        """The condition of each image. Raises UserError for words that mean nothing to the model."""
        words, conditioner = self.words(loaded), loaded.module.conditioner
        key = "labels" if self.labels is not None else "prompt" if self.prompt is not None else "prompts"
        return of_words(conditioner, words, key) if words else nothing(conditioner)

    def denoiser(self, loaded: Loaded) -> Denoiser:
        """The model's, with guidance if there is any. Raises UserError if this model cannot be guided so."""
        null = None
        if self.negative is not None:
            null = of_words(loaded.module.conditioner, [self.negative], "negative")([0])
        return guided(loaded.module, self.guidance, null)

    def images(self, fabric: Fabric, loaded: Loaded, generation: Generation) -> Iterator[Generated]:
        """This process's share, with a progress bar over all steps of the sampler on the first process."""
        module = loaded.module
        batches = len(list(generation.batches(self.num, fabric.global_rank, fabric.world_size)))
        steps = len(self.acting(loaded).times(module.denoiser.schedule)) - 1
        denoiser = self.denoiser(loaded)
        shown = fabric.is_global_zero and sys.stderr.isatty()
        with tqdm(total=batches * steps, unit="step", desc=f"{self.num} images", disable=not shown) as bar:
            with torch.no_grad(), fabric.autocast():
                yield from generation.images(
                    denoiser,
                    self.num,
                    fabric.device,
                    fabric.global_rank,
                    fabric.world_size,
                    on_step=bar.update,
                )
