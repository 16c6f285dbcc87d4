"""The LightningModule of autoencoders, in whose latents diffusion models are trained."""

from typing import Any

import torch
from torch import Tensor

from alphabar.data import Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.errors import UserError
from alphabar.metrics.perceptual import MIN_RESOLUTION, Perceptual
from alphabar.models.autoencoder import KLAutoencoder
from alphabar.models.codecs.pixels import Pixels
from alphabar.models.discriminator import PatchDiscriminator, hinge
from alphabar.resolution import format_resolution, is_multiple, nearest_multiples
from alphabar.training.modules.base import BaseModule, MakeOptimizer, NextStep, network_summary
from alphabar.training.optimization.lr_schedules import LRSchedule, MakeLRScheduler


class AutoencoderModule(BaseModule):
    """Trains an autoencoder and, if there is one, its discriminator (Rombach et al. 2022, sec. 3.1 and app. G):

    loss = mean |x - y| + kl_weight * KL / (C H W) + perceptual_weight * LPIPS(x, y) - adversarial_weight * mean D(y)

    with y decoded of a sample of the posterior, on top of the discriminator's own hinge loss. Weights are fixed: the paper's is the
    same loss summed over C H W, but with a learned variance and an adversarial weight that follows gradients. The discriminator
    learns in the same step: in the term above its weights are constants, in its own y is one. So there are one optimizer and one
    backward pass.

    optimizer, seed, lr_scheduler: see `BaseModule`.
    channels: of the images. discriminator_width, discriminator_halvings: see `PatchDiscriminator`; there is none where
        adversarial_weight is 0.
    adversarial_from: the optimizer step from which the adversarial term is part of the autoencoder's loss.
    Raises ValueError for weights or a step below 0.
    """

    def __init__(
        self,
        autoencoder: KLAutoencoder,
        optimizer: MakeOptimizer,
        seed: int,
        lr_scheduler: LRSchedule | MakeLRScheduler | None = None,
        channels: int = 3,
        kl_weight: float = 1e-6,
        perceptual: Perceptual | None = None,
        perceptual_weight: float = 0.0,
        adversarial_weight: float = 0.0,
        adversarial_from: int = 0,
        discriminator_width: int = 64,
        discriminator_halvings: int = 2,
    ) -> None:
        super().__init__(optimizer, seed, lr_scheduler)
        if min(kl_weight, perceptual_weight, adversarial_weight, adversarial_from) < 0:
            raise ValueError(
                f"need kl_weight, perceptual_weight, adversarial_weight and adversarial_from >= 0, got kl_weight={kl_weight}, "
                f"perceptual_weight={perceptual_weight}, adversarial_weight={adversarial_weight}, "
                f"adversarial_from={adversarial_from}"
            )
        self.autoencoder = autoencoder
        self.kl_weight = kl_weight
        self.perceptual = None if perceptual_weight == 0 else perceptual or Perceptual()
        self.perceptual_weight = perceptual_weight
        self.discriminator: PatchDiscriminator | None = None
        if adversarial_weight > 0:
            self.discriminator = PatchDiscriminator(channels, discriminator_width, discriminator_halvings)
        self.adversarial_weight = adversarial_weight
        self.adversarial_from = adversarial_from
        self.pixels = Pixels()

    def attach_data(self, data: ImageDataModule) -> None:
        for shape in data.training_shapes:
            self.check_shape(shape)
        if self.perceptual is not None:
            if min(data.shape[1:]) < MIN_RESOLUTION:
                raise UserError(
                    f"module.perceptual_weight={self.perceptual_weight}: LPIPS needs images of {MIN_RESOLUTION} pixels or more, "
                    f"got {format_resolution(data.shape.resolution)}"
                )
            self.perceptual.load()
        if self.discriminator is not None and min(data.shape[1:]) < self.discriminator.min_resolution:
            raise UserError(
                f"module.discriminator_halvings: the discriminator needs images of {self.discriminator.min_resolution} pixels or "
                f"more, got {format_resolution(data.shape.resolution)}"
            )

    def check_shape(self, shape: Shape) -> None:
        if not is_multiple(size := shape.resolution, factor := self.autoencoder.factor):
            raise UserError(
                f"data.buckets: the autoencoder needs sides that are multiples of {factor}, got {format_resolution(size)}: "
                f"{nearest_multiples(size, factor)}"
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        share = self.seed_step(batch_idx)
        x = self.pixels.encode(batch["image"])
        posterior = self.autoencoder.posterior(x)
        y = self.autoencoder.decode(posterior.sample(share))
        reconstruction, kl = (x - y).abs().flatten(1).mean(1), posterior.divergence() / x[0].numel()
        losses = reconstruction + self.kl_weight * kl
        parts = {"reconstruction": reconstruction.mean(), "kl": kl.mean()}
        if self.perceptual is not None:
            distance = self.perceptual(x, y)
            losses = losses + self.perceptual_weight * distance
            parts["perceptual"] = distance.mean()
        loss = losses.mean()
        if self.discriminator is not None:
            adversarial, discriminator = self._adversarial_losses(self.discriminator, x, y)
            loss = loss + self.adversarial_weight * adversarial + discriminator
            parts |= {"adversarial": adversarial, "discriminator": discriminator}
        return {"loss": loss, "losses": losses.detach(), "parts": {name: part.detach() for name, part in parts.items()}}

    def _adversarial_losses(self, discriminator: PatchDiscriminator, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the adversarial loss of the autoencoder, 0 before `adversarial_from`, and the loss of the discriminator."""
        discriminator_loss = hinge(discriminator(x), discriminator(y.detach()))
        if self.global_step < self.adversarial_from:
            return torch.zeros_like(discriminator_loss), discriminator_loss
        return -discriminator.judgement(y).mean(), discriminator_loss

    def sweep_objective(self) -> float | None:
        found = self.figures.get("reconstruction/psnr")
        return None if found is None else -found

    @property
    def composition(self) -> dict[str, str]:
        losses = {
            "LPIPS": self.perceptual is not None,
            "adversarial": self.discriminator is not None,
        }
        return {
            "network": network_summary(self.autoencoder),
            "method": ", ".join(["L1", "KL", *(name for name, is_used in losses.items() if is_used)]),
        }

    @property
    def next_steps(self) -> tuple[NextStep, ...]:
        train = "python train.py codec=autoencoder codec.name={folder}/autoencoder data=... (in its latents)"
        return (NextStep("diffusion", "autoencoder", train),)
