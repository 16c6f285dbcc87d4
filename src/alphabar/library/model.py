"""A trained model in a program of one's own: it draws images and says how likely images are."""

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from torch import Tensor

from alphabar.cli.composition.complete_config import last_checkpoint
from alphabar.cli.composition.hydra_app import App
from alphabar.config.build import build
from alphabar.config.signatures import type_hints
from alphabar.config.trust import trusting
from alphabar.data import Shape
from alphabar.diffusion.denoiser import Denoiser, NetworkDenoiser
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.evaluation.likelihood import Likelihood
from alphabar.files.paths import display_path
from alphabar.library.arguments import plain_arguments
from alphabar.library.composition import compose
from alphabar.resolution import Resolution
from alphabar.runs.provenance.current_command import scripts_folder
from alphabar.sampling.guidance_config import ClassifierFree, Guide
from alphabar.sampling.inference import Inference, Precision
from alphabar.sampling.pipeline import Pipeline, load_pipeline, resized
from alphabar.sampling.sampling_job import gather_images
from alphabar.speed import FLOAT32, prepare

INFERENCE = type_hints(Inference)
Labels = Sequence[int | str] | int | str


def load(
    checkpoint: str | Path,
    weights: Literal["ema", "raw"] = "ema",
    ema_length: float | None = None,
    stages: Sequence[str] = (),
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    trust: Sequence[str] = (),
) -> "Model":
    """Returns the model of a checkpoint.

    checkpoint: a file, or the folder of a run, of which checkpoints/last.ckpt is taken; the best one is RUN/checkpoints/best.ckpt.
    weights, ema_length, stages, precision: see `Inference`. device: such as "cpu" or "cuda:1"; None: a GPU if there is one.
    trust: modules of others, such as ["mylab"], whose classes the file may name.
    Raises UserError for a file that is none of a diffusion model, or a device that does not exist.
    """
    must_be_list("trust", trust)
    given = {"checkpoint": checkpoint, "stages": stages, "weights": weights, "ema_length": ema_length, "precision": precision}
    fabric = fabric_of(device)
    plain = plain_arguments({**INFERENCE, "checkpoint": str}, given)
    plain["checkpoint"] = last_checkpoint("checkpoint", plain["checkpoint"])
    plain["stages"] = [last_checkpoint("stages", each) for each in must_be_list("stages", plain["stages"])]
    try:
        settings = Inference(run_dir="", accelerator=fabric.device.type, **plain)
        settings = replace(settings, **settings.speed._asdict())  # chosen once
    except ValueError as error:
        raise UserError(str(error)) from error
    with trusting(trust):
        return Model(load_pipeline(settings), fabric)


def fabric_of(device: str | torch.device | None) -> Fabric:
    """Returns the Fabric of one device, in float32. Raises UserError for one that does not exist."""
    try:
        wanted = None if device is None else torch.device(device)
        devices: Any = 1 if wanted is None or wanted.index is None or wanted.type == "cpu" else [wanted.index]
        return Fabric(accelerator="auto" if wanted is None else wanted.type, devices=devices)
    except Exception as error:  # of several kinds, Lightning's own among them
        raise UserError(f"device={device}: {' '.join(str(error).split())}") from error


def must_be_list(name: str, value: Sequence[str]) -> Sequence[str]:
    """Returns the value. Raises UserError unless it is a list of texts."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise UserError(f"{name}: need a list of texts, such as [{str(value)!r}], got {value!r}")
    return value


class Model:
    """A trained model, and the device on which it runs. `load` returns one."""

    def __init__(self, pipeline: Pipeline, fabric: Fabric) -> None:
        self.pipeline = pipeline
        self.fabric = fabric
        for stage in pipeline.loaded.cascade:
            prepare(stage.model.to(fabric.device), pipeline.settings.speed)

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The network with its schedule: denoiser(x_t, t, cond) predicts (x_hat, eps_hat); without guidance."""
        return self.pipeline.model.denoiser

    @property
    def shape(self) -> Shape:
        """The shape of an image."""
        return self.pipeline.loaded.shape

    @property
    def step(self) -> int:
        """The number of optimizer steps that the weights were trained for."""
        return self.pipeline.loaded.step

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the run, as plain values."""
        return OmegaConf.to_container(self.pipeline.loaded.config, resolve=True)  # type: ignore[return-value]

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes that `labels` may name; empty for a model without classes."""
        return self.pipeline.loaded.first.model.conditioner.classes or ()

    def __repr__(self) -> str:
        network = self.denoiser.network
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        path, weights = display_path(self.pipeline.settings.checkpoints[-1]), self.pipeline.settings.weights_label
        return (
            f"Model({path}: {type(network).__name__}, {num_parameters:,} parameters, {weights} weights of step {self.step:,}, "
            f"images {'x'.join(map(str, self.shape))}, on {self.fabric.device})"
        )

    def sample(
        self,
        num: int = 16,
        *,
        labels: Labels | None = None,
        prompts: Sequence[str] | str | None = None,
        vectors: Sequence[Sequence[float]] | str | None = None,
        negative: str | None = None,
        images: str | None = None,
        sampler: Sampler | str | None = None,
        num_steps: int | None = None,
        guidance: Guide | str | float | None = None,
        resolution: Resolution | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
    ) -> Tensor:
        """Returns images, [num, C, H, W] on the CPU, uint8 or of 16 bits uint16: those that sample.py draws with these settings.

        labels, vectors, negative, resolution, seed, first, batch_size: as in `Inference`. prompts: texts, or a file with one
        a line. images: the files that a model of images is conditioned on. sampler: a sampler, or the name of one in conf/sampler;
        None: DDIM. num_steps: None: the number of the sampler. guidance: a weight of classifier-free guidance, a name in
        conf/guidance or a guide; None: no guidance.
        Raises UserError for settings that do not suit the model. Images with NaN or infinity are black, and a warning counts them.
        """
        pipeline = self._with_settings(
            num=num,
            labels=labels,
            prompts=prompts,
            vectors=vectors,
            negative=negative,
            files=images,
            sampler=sampler_of(sampler, num_steps),
            guidance=guide_of(guidance),
            resolution=resolution,
            seed=seed,
            first=first,
            batch_size=batch_size,
        )
        pipeline.check()
        conditions, _ = pipeline.conditions_and_sources(self.fabric)
        batches = list(pipeline.images(self.fabric, conditions))
        if num_nonfinite := sum(int((~batch.finite).sum()) for batch in batches):
            warnings.warn(f"{num_nonfinite} of {num} images had NaN or infinity in them, and are black", stacklevel=2)
        return gather_images(pipeline.loaded.shape, num, batches, self.fabric.device, first, bits=self.pipeline.codec.bits)

    def guided(self, guidance: Guide | str | float, negative: str | None = None) -> Denoiser:
        """Returns the denoiser with guidance; the arguments are those of `sample`. Raises UserError if it cannot be guided so."""
        return self._with_settings(guidance=guide_of(guidance), negative=negative).denoiser()

    def log_likelihood(
        self,
        images: Tensor,
        labels: Labels | None = None,
        vectors: Sequence[Sequence[float]] | str | None = None,
        num_steps: int = 100,
        probes: int = 1,
        seed: int = 1,
        batch_size: int = 250,
    ) -> Tensor:
        """Returns log p(image) in nats, float64 [N] on the CPU, of images uint8 [N, C, H, W] under the probability-flow ODE.

        It is the density of the bytes, dequantised by noise of one grey level: a lower bound on the log of their probability in
        expectation. See `bits_per_dimension` for the figure of metric=bpd.
        labels, vectors: the condition of each image, in turn. num_steps: of the ODE. probes: estimates of the trace for each image.
        Raises UserError for images of another kind or size, or a model without a likelihood.
        """
        bits = self.bits_per_dimension(images, labels, vectors, num_steps, probes, seed, batch_size)
        return -bits * math.prod(self.shape) * math.log(2)

    def bits_per_dimension(
        self,
        images: Tensor,
        labels: Labels | None = None,
        vectors: Sequence[Sequence[float]] | str | None = None,
        num_steps: int = 100,
        probes: int = 1,
        seed: int = 1,
        batch_size: int = 250,
    ) -> Tensor:
        """Returns -log2 p(image) / (C * H * W), float64 [N]; the mean over held-out images is the figure "ode" of metric=bpd.

        The arguments and errors are those of `log_likelihood`.
        """
        need = f"uint8 [N, {', '.join(map(str, self.shape))}] with N > 0"
        if not isinstance(images, Tensor):
            raise UserError(f"images: need {need}, got {type(images).__name__}")
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape or len(images) == 0:
            raise UserError(f"images: need {need}, got {str(images.dtype).removeprefix('torch.')} {list(images.shape)}")
        conditions = {"labels": labels, "vectors": vectors}
        pipeline = self._with_settings(
            num=len(images), **conditions, seed=seed, batch_size=batch_size, precision=FLOAT32, compile=False
        )
        numbers = plain_arguments(type_hints(Likelihood), {"bpd_steps": num_steps, "probes": probes}, bpd_steps="num_steps")
        try:
            likelihood = Likelihood(inference=pipeline.settings, **numbers)
        except ValueError as error:
            raise UserError(str(error)) from error
        likelihood.check_model(pipeline)
        estimator = likelihood.flow(self.denoiser, pipeline.conditions())
        bits, _ = likelihood.bits_per_dimension([estimator], lambda rows: images[rows], pipeline.loaded, self.fabric)
        return bits[0].cpu()

    def _with_settings(self, **settings: Any) -> Pipeline:
        """Returns the pipeline with other settings. Raises UserError for those that `Inference` refuses."""
        plain = plain_arguments(INFERENCE, settings, files="images")
        try:
            inference, loaded = replace(self.pipeline.settings, **plain), self.pipeline.loaded
            return Pipeline(inference, loaded if inference.resolution is None else resized(loaded, inference.resolution))
        except ValueError as error:
            raise UserError(str(error)) from error


def must_be_name(group: str, value: object, example: str) -> None:
    """Raises UserError unless the value, if there is one, could be a name in a group: one word. example: what else may be given."""
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[\w/-]+", value)):
        names = ", ".join(App(scripts_folder() / "conf", "sample").choices()[group])
        found = " ".join(repr(value).split())[:100]
        raise UserError(f"{group}: need one of {names}, or an object or number such as {example}, got {found}")


def sampler_of(sampler: Sampler | str | None, num_steps: int | None) -> Sampler:
    """Returns a sampler by its name in conf/sampler, as sample.py builds it; None: the default one.

    Raises UserError for a name that is none.
    """
    num_steps = plain_arguments({"num_steps": int | None}, {"num_steps": num_steps})["num_steps"]
    if isinstance(sampler, Sampler):
        try:
            return sampler if num_steps is None else replace(sampler, num_steps=num_steps)
        except ValueError as error:
            raise UserError(f"sampler: {error}") from error
    must_be_name("sampler", sampler, "DDIM(num_steps=50)")
    words = [] if sampler is None else [f"sampler={sampler}"]
    words += [] if num_steps is None else [f"sampler.num_steps={num_steps}"]
    return build(compose("sample", words).sampler, "sampler")


def guide_of(guidance: Guide | str | float | None) -> Guide | None:
    """Returns a guide by its name in conf/guidance, or by the weight of classifier-free guidance.

    Raises UserError for a name that is none.
    """
    if guidance is None or isinstance(guidance, Guide):
        return guidance
    if isinstance(guidance, int | float):
        return ClassifierFree(weight=guidance)
    must_be_name("guidance", guidance, "2.5")
    node = compose("sample", [f"guidance={guidance}"]).guidance
    return None if node is None else build(node, "guidance")
