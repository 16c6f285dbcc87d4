"""The LightningModule of diffusion: a denoiser, an objective and the training step."""

from copy import deepcopy

import torch
from torch import Tensor

from alphabar.data import Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.latents import take_latents
from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.errors import LeavesVarianceUntrained, NeedsContinuousSchedule, NeedsDiscreteSchedule, NeedsLearnedVariance
from alphabar.diffusion.noise import derive_seed
from alphabar.diffusion.objectives import Objective, RankShare
from alphabar.errors import Advice, UserError, advised
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import Conditioner
from alphabar.models.conditioners.unconditional import Unconditional
from alphabar.training.modules.base import BaseModule, MakeOptimizer

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

    optimizer, seed, warmup_steps: see `BaseModule`, which raises ValueError.
    conditioner: what the network is told of an image; None: nothing.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        objective: Objective,
        codec: Codec,
        optimizer: MakeOptimizer,
        seed: int,
        warmup_steps: int = 0,
        conditioner: Conditioner | None = None,
    ) -> None:
        super().__init__(optimizer, seed, warmup_steps)
        self.denoiser = denoiser
        self.objective = objective
        self.codec = codec
        self.conditioner = Unconditional() if conditioner is None else conditioner

    def learn(self, data: ImageDataModule) -> None:
        self.conditioner.attach_captions(data.captions)
        self.check_parts(data.shape)

    @torch.no_grad()
    def check_parts(self, shape: Shape) -> None:
        """Raises UserError if network, schedule and objective do not go together, as a trial with one black image shows."""
        images = torch.zeros(1, shape.channels, shape.resolution, shape.resolution, dtype=torch.uint8)
        objective = deepcopy(self.objective)  # some learn from what they see
        was_training = self.training
        self.eval()
        try:
            objective(self.denoiser, self.codec.encode(images), self.conditioner.null(1))
        except ValueError as error:
            raise UserError(f"objective: {advised(error, OBJECTIVE_ADVICE)}") from error
        finally:
            self.train(was_training)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if (codec := self.codec.latents) is not None and isinstance(data, ImageDataModule):
            take_latents(codec, data, self.device, with_images=self.conditioner.takes_images)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        torch.manual_seed(derive_seed("step", self.seed, self.global_step, batch_idx, self.global_rank))
        common = derive_seed("batch", self.seed, self.global_step, batch_idx)
        share = RankShare(self.global_rank, self.trainer.world_size, common)
        terms = self.objective(self.denoiser, self.codec(batch), self.conditioner(batch), share)
        return {"loss": terms.loss.mean(), "losses": terms.loss.detach(), "levels": terms.level}

    def sweep_objective(self) -> float | None:
        return self.figures.get("train/loss")

    @property
    def next_steps(self) -> tuple[str, ...]:
        if not self.codec.makes_images:
            return ("sample       python sample.py checkpoint=DECODER stages=[{folder}/checkpoints/last.ckpt] prompt=...",)
        pictures = ("pictures     {folder}/samples/  film.png  film.gif  curves.png",)
        return (*pictures, "sample       python sample.py checkpoint={folder}/checkpoints/last.ckpt num=64")
