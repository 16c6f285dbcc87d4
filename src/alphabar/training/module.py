"""The LightningModule: a denoiser, an objective and the training step."""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from alphabar.diffusion.denoiser import NetworkDenoiser
from alphabar.diffusion.noise import derive_seed
from alphabar.diffusion.objectives import Objective, Share
from alphabar.errors import UserError
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import Conditioner
from alphabar.models.conditioners.unconditional import Unconditional
from alphabar.training.data import Shape


class DiffusionModule(LightningModule):
    """Trains a denoiser (the network and the buffers of its beta schedule) to minimise an objective.

    optimizer: makes an optimizer of parameters.
    seed: with it the step, the batch and the rank fix every random number of a step, so that a resumed run repeats them.
    warmup_steps: over which the learning rate rises linearly to its value; 0 for none. Raises ValueError if negative.
    conditioner: what the network is told of an image; None: nothing.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        objective: Objective,
        codec: Codec,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: int,
        warmup_steps: int = 0,
        conditioner: Conditioner | None = None,
    ) -> None:
        super().__init__()
        if warmup_steps < 0:
            raise ValueError(f"need warmup_steps >= 0, got warmup_steps={warmup_steps}")
        self.denoiser = denoiser
        self.objective = objective
        self.codec = codec
        self.conditioner = Unconditional() if conditioner is None else conditioner
        self.make_optimizer = optimizer
        self.seed = seed
        self.warmup_steps = warmup_steps
        self.grad_norm: Tensor | None = None
        self.figures: dict[str, float] = {}  # the latest of each, the same on all ranks
        self.seconds_evaluating = 0.0

    @torch.no_grad()
    def must_learn(self, shape: Shape) -> None:
        """Raises UserError if network, schedule and objective do not go together, as a trial with one black image shows."""
        images = torch.zeros(1, shape.channels, shape.resolution, shape.resolution, dtype=torch.uint8)
        objective = deepcopy(self.objective)  # some learn from what they see
        was_training = self.training
        self.eval()
        try:
            objective(self.denoiser, self.codec.encode(images), self.conditioner.null(1))
        except ValueError as error:
            raise UserError(f"objective: {error}") from error
        finally:
            self.train(was_training)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """{"loss": the mean, "losses": [B], "levels": [B]}, all on the device: nothing here waits for it."""
        torch.manual_seed(derive_seed("step", self.seed, self.global_step, batch_idx, self.global_rank))
        common = derive_seed("batch", self.seed, self.global_step, batch_idx)
        share = Share(self.global_rank, self.trainer.world_size, common)
        terms = self.objective(self.denoiser, self.codec.encode(batch["image"]), self.conditioner(batch), share)
        return {"loss": terms.loss.mean(), "losses": terms.loss.detach(), "levels": terms.level}

    def configure_optimizers(self) -> dict[str, object]:
        """The optimizer, and the warm-up if there is one."""
        optimizer = self.make_optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        if self.warmup_steps == 0:
            return {"optimizer": optimizer}
        scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.warmup_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by norm, and keeps the norm before clipping as `grad_norm`, which costs nothing more.

        Raises UserError for float16 gradients that a fused optimizer would unscale only after they were clipped.
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is not None and optimizer.defaults.get("fused"):
            raise UserError(
                "trainer.precision=16-mixed cannot clip with optimizer.fused=true: use bf16-mixed, or optimizer.fused=false"
            )
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if gradient_clip_algorithm == "value":
            self.grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            self.grad_norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val or float("inf"))
