"""The settings of inference with a checkpoint, which `conf/inference.yaml` gives to sample.py and evaluate.py."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.thresholdings import Static
from alphabar.errors import UserError
from alphabar.resolution import Resolution
from alphabar.runs.ema.profiles import MAX_LENGTH
from alphabar.runs.folders.run_dir import is_first_process
from alphabar.sampling.guidance_config import Guide
from alphabar.speed import Speed, device_of, fastest, possible

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
ON_CPU, ON_GPU = 64, 512  # images at a time
DEFAULT_SAMPLER = DDIM(num_steps=50, thresholding=Static())  # the default of the configuration


@dataclass(frozen=True, kw_only=True)
class Inference:
    """The settings of inference: checkpoint, weights, devices, sampler, guidance and conditions.

    Image i depends on the weights, the sampler, the guidance, the condition of image i, the seed and i alone, but for rounding: in
    float32 that seldom changes a pixel by a grey level, in bfloat16 by a few.

    checkpoint: None only where images in files are evaluated. stages: the checkpoints of upstream models of a cascade, first to
        last, each conditioned on the samples of the one before; the first gets the condition of the user.
    run_dir: the folder of the command. num: the number of images. first: the index of the first one.
    batch_size: images at a time on each device; None: 64, and at most 512 samples on a GPU, in batches of one size.
    precision, channels_last, compile, tf32, threads, keep_memory: see `Speed`; None: what is fastest on the device.
    weights: "ema" or "raw"; those of upstream models are chosen by this alone.
    ema_length: sigma_rel of a power-function average that is made from the snapshots of the run, in place of the average that the
        run itself used. ema_decay: the decay of an exponential average that the run kept beside that.
    codec_name, clip_name: see `FrozenPartPaths`. data_root: where the checkpoint's data lie now; None: as in training.
    labels: for models of classes, 3, "cat", ["cat", 5], "all" or "0-9". prompt: for models of texts; prompts: several, or a file
        with one a line. vector: for models of numbers, 0.3 or [0.3, 1.2]; vectors: several, or a file of them. Image i has label,
        prompt or vector i, modulo their number; without any it has no condition. negative: a prompt to be led away from.
    resolution: that of the images that are drawn, which has to suit the network; None: that of training.
    files: an image, or a folder of images; None: held-out images of the checkpoint's data.
    Raises ValueError unless num >= 1, first >= 0, batch_size >= 1, threads >= 0, for an average that is none or that weights=raw
    leaves out, for more than one of labels, prompt, prompts, vector and vectors, or of files and data_root, and for a negative
    prompt without guidance.
    """

    checkpoint: str | None = None
    stages: Sequence[str] = ()
    run_dir: str
    num: int = 64
    first: int = 0
    seed: int = 0
    weights: Literal["ema", "raw"] = "ema"
    ema_length: float | None = None
    ema_decay: float | None = None
    codec_name: str | None = None
    clip_name: str | None = None
    data_root: str | None = None
    batch_size: int | None = None
    accelerator: str = "auto"
    devices: int | str = 1
    precision: Precision | None = None
    channels_last: bool | None = None
    compile: bool | None = None
    tf32: bool | None = None
    threads: int | None = None
    keep_memory: bool | None = None
    sampler: Sampler = DEFAULT_SAMPLER
    guidance: Guide | None = None
    labels: Sequence[int | str] | int | str | None = None
    prompt: str | None = None
    prompts: Sequence[str] | str | None = None
    vector: Sequence[float] | float | None = None
    vectors: Sequence[Sequence[float]] | str | None = None
    negative: str | None = None
    resolution: Resolution | None = None
    files: str | None = None

    def __post_init__(self) -> None:
        if self.num < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise ValueError(f"need num >= 1 and batch_size >= 1, got num={self.num}, batch_size={self.batch_size}")
        if self.threads is not None and self.threads < 0:
            raise ValueError(f"need speed.threads >= 0, 0 for as many as torch takes, got speed.threads={self.threads}")
        if self.first < 0:
            raise ValueError(f"need first >= 0, got first={self.first}")
        averages = self._given("ema_length", "ema_decay")
        if averages and self.weights == "raw":
            raise ValueError(f"{averages[0]}: need weights=ema, got weights=raw, which are not averaged")
        if len(averages) > 1:
            raise ValueError(f"need ema_length or ema_decay, got {' '.join(averages)}")
        if self.ema_length is not None and not 0 < self.ema_length <= MAX_LENGTH:
            raise ValueError(f"need 0 < ema_length <= {MAX_LENGTH:.5f}, that of the plain mean, got {averages[0]}")
        if len(prompts := self._given("labels", "prompt", "prompts", "vector", "vectors")) > 1:
            raise ValueError(f"need one of labels, prompt, prompts, vector and vectors, got {' '.join(prompts)}")
        if self.negative is not None and self.guidance is None:
            raise ValueError("negative: need guidance=classifier_free or guidance=apg, which lead away from it, got guidance=none")
        if self.files is not None and self.data_root is not None:
            raise ValueError(f"need images or data_root, got images={self.files} data_root={self.data_root}")

    def _given(self, *keys: str) -> list[str]:
        return [f"{key}={vars(self)[key]}" for key in keys if vars(self)[key] is not None]

    @cached_property
    def speed(self) -> Speed:
        """The speed at which the networks compute."""
        given = {key: vars(self)[key] for key in Speed._fields if vars(self)[key] is not None}
        is_one = self.devices in (1, "1") and os.environ.get("WORLD_SIZE", "1") == "1"
        num_devices = max(1, self.devices) if isinstance(self.devices, int) else 1
        num_batches = -(-self.num // (num_devices * self.samples_at_a_time(self.num, num_devices)))
        num_calls = None if self.sampler.num_steps is None else num_batches * self.sampler.num_steps
        device = device_of(self.accelerator)
        return possible(fastest(device, 1 if is_one else 2, num_calls, given), device, is_first_process())

    @property
    def images_at_a_time(self) -> int:
        """The number of images that each device works on at a time."""
        return ON_CPU if self.batch_size is None else self.batch_size

    def samples_at_a_time(self, num: int, num_devices: int = 1) -> int:
        """Returns how many of `num` samples each device draws at a time; a GPU that has no memory for so many draws them in parts.

        On GPUs all draw as many batches, of one size and as few as possible. Rounding thus depends on the number of GPUs.
        """
        if self.batch_size is not None or device_of(self.accelerator).type != "cuda":
            return min(self.images_at_a_time, num)
        share = -(-num // num_devices)
        return -(-share // -(-share // ON_GPU))

    @property
    def end(self) -> int:
        """The index that follows that of the last image."""
        return self.first + self.num

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
