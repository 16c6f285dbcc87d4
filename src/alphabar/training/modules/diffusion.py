"""The LightningModule of diffusion: a denoiser, an objective and the training step."""

from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from torch import Tensor

from alphabar.config.build import build
from alphabar.data import Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.latents import prepare_latents
from alphabar.diffusion.denoiser import Cond, NetworkDenoiser, must_have_sizes
from alphabar.diffusion.description import describe_tensors
from alphabar.diffusion.errors import (
    LeavesVarianceUntrained,
    MisshapenOutput,
    NeedsContinuousSchedule,
    NeedsDiscreteSchedule,
    NeedsLearnedVariance,
)
from alphabar.diffusion.objectives import Objective
from alphabar.errors import Advice, UserError, advised
from alphabar.models.augmentations import LabelledAugmentation
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import Conditioner
from alphabar.models.conditioners.unconditional import Unconditional
from alphabar.models.networks import Network
from alphabar.runs.folders.run_dir import AUTO
from alphabar.sampling.conditions import attach_captions
from alphabar.sampling.guidance_config import guided
from alphabar.sampling.model import TrainedModel
from alphabar.sampling.sampling_job import NUM_TRIED, check_sampler
from alphabar.training.modules.base import BaseModule, MakeOptimizer, NextStep, network_summary
from alphabar.training.modules.trial import copied, evaluation_mode, trial, tried_forward, tried_null, widths
from alphabar.training.optimization.lr_schedules import LRSchedule, MakeLRScheduler

OBJECTIVE_ADVICE: Advice = {
    LeavesVarianceUntrained: "choose objective=hybrid, or network.learned_variance=false",
    NeedsContinuousSchedule: (
        "choose times=uniform, logit_normal or importance, or a schedule with continuous time (edm, straight, shifted_cosine)"
    ),
    NeedsDiscreteSchedule: "choose schedule=linear, cosine or another with num_steps, or objective=denoising",
    NeedsLearnedVariance: (
        "choose one with learned_variance (network=unet_tiny, unet_small, unet_cifar10, unet, dit_tiny or dit), "
        "or objective=denoising"
    ),
}


class DiffusionModule(BaseModule):
    """Trains a denoiser (the network and the buffers of its beta schedule) to minimise an objective.

    optimizer, seed, lr_scheduler: see `BaseModule`.
    conditioner: makes the condition of the network from a batch; None for an unconditional model.
    augmentation: transforms the images of a batch and gives the network its labels; None: no augmentation.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        objective: Objective,
        codec: Codec,
        optimizer: MakeOptimizer,
        seed: int,
        lr_scheduler: LRSchedule | MakeLRScheduler | None = None,
        conditioner: Conditioner | None = None,
        augmentation: LabelledAugmentation | None = None,
    ) -> None:
        super().__init__(optimizer, seed, lr_scheduler)
        self.denoiser = denoiser
        self.objective = objective
        self.codec = codec
        self.conditioner = Unconditional() if conditioner is None else conditioner
        must_have_sizes(self.conditioner)
        self.augmentation = augmentation
        if augmentation is not None and codec.latents is not None and codec.latents.cache_dir is not None:
            raise ValueError(
                "augmentation changes images, and their latents are cached: need augmentation=none or codec.cache=false"
            )

    @property
    def reads_captions(self) -> bool:
        return self.conditioner.reads_captions

    def attach_data(self, data: ImageDataModule) -> None:
        attach_captions(self.conditioner, data)
        if self.conditioner.vector_length:
            try:
                self.conditioner.attach_vectors(data.source.train().vectors)
            except ValueError as error:
                raise UserError(f"data: {error}") from error
        for shape in data.training_shapes:
            self.check_shape(shape)

    @torch.no_grad()
    def check_shape(self, shape: Shape) -> None:
        """Raises UserError if network, schedule and objective do not go together, as a trial with black images shows.

        The modes are those of training; `check_config` tries the network in eval mode.
        """
        images = torch.zeros(NUM_TRIED, *shape, dtype=torch.uint8)
        denoiser, conditioner = copied(self.denoiser), copied(self.conditioner)
        objective = copied(self.objective)  # some learn from what they see
        try:
            self.codec.space(*shape)
            with trial(denoiser, conditioner, {"codec": self.codec, "objective": objective}):
                labels = None if self.augmentation is None else self.augmentation(images).labels
                objective(denoiser, self.codec.encode(images), with_labels(tried_null(conditioner), labels))
        except UserError:
            raise
        except ValueError as error:
            key = "network" if isinstance(error, MisshapenOutput) else "objective"
            raise UserError(f"{key}: {advised(error, OBJECTIVE_ADVICE)}") from error

    def check_condition(self, batch: Mapping[str, Tensor]) -> None:
        """Raises UserError if no condition can be made of what is known of some images, or one unlike the null condition.

        batch: as `ImageSet.metadata` gives it.
        """
        conditioner = copied(self.conditioner)
        with torch.no_grad(), trial(self.denoiser, conditioner, {}):
            made = tried_forward(conditioner, batch)
            null = tried_null(conditioner)
        if made is not None and null is not None and widths(made) != widths(null):
            raise UserError(
                f"conditioner: {type(self.conditioner).__name__} makes {describe_tensors(made)} of these data, and "
                f"{describe_tensors(null)} as its null condition: need the same names and widths"
            )

    def check_config(self, config: DictConfig, shape: Shape) -> None:
        network = self.denoiser.network
        if config.resume in (None, AUTO) and isinstance(network, Network) and network.unused_arguments:
            raise UserError(f"network.{network.unused_arguments[0]}")
        guide = None if config.guidance is None else build(config.guidance, "guidance")
        sampler = build(config.sampler, "sampler")
        model = TrainedModel(copied(self.denoiser), self.codec, copied(self.conditioner))
        with evaluation_mode(model), trial(model.denoiser, model.conditioner, {"codec": self.codec}):
            check_sampler(sampler, guided(model, guide), self.codec, shape, tried_null(model.conditioner))

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ImageDataModule) and not self.conditioner.takes_images:
            self.check_condition(data.train_set.metadata(torch.arange(NUM_TRIED) % len(data.train_set)))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if (codec := self.codec.latents) is not None and isinstance(data, ImageDataModule):
            prepare_latents(codec, data, self.device, with_images=self.conditioner.takes_images)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        share = self.seed_step(batch_idx)
        labels = None
        if self.augmentation is not None:
            images, labels = self.augmentation(batch["image"], share)
            batch = {**batch, "image": images}
        x, cond = self.codec(batch, share), self.conditioner(batch, share)
        terms = self.objective(self.denoiser, x, with_labels(cond, labels), share)
        return {"loss": terms.loss.mean(), "losses": terms.loss.detach(), "levels": terms.level}

    def sweep_objective(self) -> float | None:
        return self.figures.get("train/loss")

    @property
    def makes_images(self) -> bool:
        return self.codec.makes_images

    @property
    def part_of_8_bits(self) -> str | None:
        part = self.conditioner if self.conditioner.takes_images else None if self.codec.bits == 16 else self.codec
        return None if part is None else type(part).__name__

    @property
    def learned_parts(self) -> tuple[str, ...]:
        return ("denoiser.network.", "conditioner.")

    @property
    def composition(self) -> dict[str, str]:
        schedule, parameterization = self.denoiser.schedule, self.denoiser.parameterization
        method = (parameterization, schedule, self.objective, self.codec, self.conditioner)
        return {"network": network_summary(self.denoiser.network), "method": ", ".join(type(part).__name__ for part in method)}

    @property
    def next_steps(self) -> tuple[NextStep, ...]:
        last = "checkpoints/last.ckpt"
        if not self.makes_images:
            return (NextStep("sample", last, f"python sample.py checkpoint=DECODER stages=[{{folder}}/{last}] prompt=..."),)
        return (NextStep("sample", last, f"python sample.py checkpoint={{folder}}/{last} num=64"),)


def with_labels(cond: Cond, labels: Tensor | None) -> Cond:
    """Returns the condition with the labels of the augmentation, if there are any."""
    return cond if labels is None else {**(cond or {}), "augmentation": labels}
