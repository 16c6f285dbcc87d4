"""The base class of the LightningModules: an optimizer and its learning rate, clipping, and the figures that callbacks keep."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from alphabar.data import Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.diffusion.noise import RankShare, derive_seed, seed_global_streams
from alphabar.errors import UserError
from alphabar.files.paths import display_path
from alphabar.models.codecs.pixels import check_images
from alphabar.runs.processes.distributed import rank_and_size
from alphabar.speed import Speed, prepare, regions
from alphabar.training.modules.restored_state import must_be_training_state
from alphabar.training.optimization.lr_schedules import LRSchedule, MakeLRScheduler, make_scheduler, set_rates
from alphabar.training.optimization.optimizers import MakeOptimizer, ModuleOptimizer

log = logging.getLogger(__name__)


class NextStep(NamedTuple):
    """A command that can follow a run; {folder} in it stands for the run's folder, in which the file `needs` has to exist."""

    label: str
    needs: str
    command: str


class BaseModule(LightningModule, ABC):
    """A model that is trained on images.

    optimizer: makes an optimizer of parameters.
    seed: fixes, with the step and the batch, every random number of a step, so that a resumed run repeats them.
    lr_scheduler: the learning rate over the steps, or a factory of a scheduler of torch, which is stepped at each optimizer step;
        None: a constant learning rate.
    """

    def __init__(self, optimizer: MakeOptimizer, seed: int, lr_scheduler: LRSchedule | MakeLRScheduler | None) -> None:
        super().__init__()
        self.make_optimizer = optimizer
        self.seed = seed
        self.lr_scheduler = lr_scheduler
        self.config: Any = {}  # the resolved configuration of the run, which checkpoints keep; empty where there is none
        self.grad_norm: Tensor | None = None  # of the latest step, before clipping; not finite if the step was skipped
        self.batch_seed: int | None = None  # of the noise of the latest batch
        self.figures: dict[str, float] = {}  # the latest of each, the same on all ranks
        self.new_figures: set[str] = set()  # the names of figures that `ValidationHooks` has not passed on yet
        self.newly_logged: set[str] = set()  # the same of figures that were logged with `self.log`
        self.seconds_evaluating = 0.0
        self.flops_per_image: float | None = None  # of a step, forward and backward; None if they are not counted
        self.speed = Speed()
        self.warm_start: str | None = None  # the weights that the run began with, where `init_from` gave some
        self.has_checked_images = False
        self.has_new_end = False  # whether the run is resumed and ends at another step than before
        self.loaded_checkpoint: dict[str, Any] | None = None  # from which training goes on, until that is restored

    @abstractmethod
    def attach_data(self, data: ImageDataModule) -> None:
        """Prepares the module for the data before training. Raises UserError if they do not go together."""

    def compute_with(self, speed: Speed) -> None:
        """Makes the networks compute at a speed; their precision is that of the Trainer."""
        self.speed = speed if regions(self) else speed._replace(compile=False)
        prepare(self, speed)

    def check_shape(self, shape: Shape) -> None:
        """Raises UserError if the module cannot be trained on images of this shape; by default it takes them all."""

    def takes(self, shape: Shape) -> bool:
        """Returns whether `check_shape` accepts a shape; somebody else's network may refuse it in torch's words."""
        try:
            self.check_shape(shape)
        except (UserError, RuntimeError):
            return False
        return True

    def check_config(self, config: DictConfig, shape: Shape) -> None:
        """Raises UserError if other parts of the configuration, such as the sampler, do not suit the module; by default they do."""

    @property
    def reads_captions(self) -> bool:
        """Returns whether the captions of the images are part of what is learned."""
        return False

    @property
    def makes_images(self) -> bool:
        """Returns whether the model is sampled and its samples are images."""
        return False

    @property
    def part_of_8_bits(self) -> str | None:
        """Returns the name of a part that is limited to images of 8 bits, by default the module, or None if there is none."""
        return type(self).__name__

    @property
    def learned_parts(self) -> tuple[str, ...]:
        """Returns the prefixes of the names of weights that `init_from` may set; by default of all."""
        return ("",)

    @property
    @abstractmethod
    def composition(self) -> dict[str, str]:
        """Returns the lines that name the model's parts at the beginning of a run: {"network": "UNet, 427,009 parameters"}."""

    @abstractmethod
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """Returns {"loss": the mean, "losses": [B]}, all on the device, without synchronising with it.

        Optional entries: "levels" [B], the noise levels 0..1 of the examples, and "parts", the terms of the loss by name, each one
        number.
        """

    @abstractmethod
    def sweep_objective(self) -> float | None:
        """Returns the figure that a sweep minimises where there is no FID; None before there is any."""

    @property
    @abstractmethod
    def next_steps(self) -> tuple[NextStep, ...]:
        """Returns the commands that can follow a run."""

    def seed_step(self, batch_idx: int) -> RankShare:
        """Returns this process's share of a batch, with the random numbers of its rows.

        Seeds torch's global streams, which dropout inside networks draws from; they differ on every rank.
        """
        step, (rank, world_size) = (self.seed, self.global_step, batch_idx), rank_and_size()
        seed_global_streams(derive_seed("network", *step, rank), self.device)
        self.batch_seed = derive_seed("step", *step, 0)
        return RankShare(rank, world_size, self.batch_seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["figures"] = dict(self.figures)  # a run that was stopped after its last step still has its result

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.figures = {**checkpoint.get("figures", {}), **self.figures}
        self.loaded_checkpoint = checkpoint

    def on_fit_start(self) -> None:
        """Checks the training state of a checkpoint before it is restored. Raises UserError for an invalid one."""
        if self.loaded_checkpoint is not None:
            name = f"checkpoint {display_path(self.trainer.ckpt_path or '')}"
            must_be_training_state(self.loaded_checkpoint, self.trainer, self.make_optimizer, name)
            self._tell_of_new_end(self.loaded_checkpoint)
            self.loaded_checkpoint = None
        self.has_checked_images = False

    def on_train_start(self) -> None:
        """Recomputes the learning rate of the next step if the resumed run ends at another step than before."""
        if self.has_new_end:
            (config,) = self.trainer.lr_scheduler_configs
            set_rates(config.scheduler)  # type: ignore[arg-type]
        self.has_new_end = False

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Checks the values of the first batch only, since a check of each would wait for the device. Raises UserError."""
        if not self.has_checked_images and "image" in batch:
            try:
                check_images(batch["image"])
            except ValueError as error:
                raise UserError(f"data: {error}") from error
        self.has_checked_images = True

    def configure_optimizers(self) -> dict[str, object]:
        """Returns the optimizer, and the scheduler of its learning rate if there is one. Raises UserError, see `make_scheduler`."""
        make = self.make_optimizer
        if isinstance(make, ModuleOptimizer):
            optimizer = make(make.groups(self))
        else:
            optimizer = make([parameter for parameter in self.parameters() if parameter.requires_grad])
        optimizer.register_load_state_dict_post_hook(align_state)
        scheduler = make_scheduler(self.lr_scheduler, optimizer, self.trainer)
        if scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _tell_of_new_end(self, checkpoint: Mapping[str, Any]) -> None:
        """Warns about the learning rate of a resumed run whose schedule depends on the end of the run, if that has changed."""
        schedule, step = self.lr_scheduler, int(checkpoint["global_step"])
        before, now = OmegaConf.select(OmegaConf.create(checkpoint.get("config", {})), "trainer.max_steps"), self.trainer.max_steps
        if not isinstance(schedule, LRSchedule) or not schedule.follows_the_run or before in (None, now):
            return
        self.has_new_end = True
        if self.trainer.is_global_zero:
            rates = (schedule.factor(step, end) for end in (now, before))
            log.warning(
                "lr_scheduler: the rate falls until step %d now, not until %d: at step %d it is %.3g of its value, not %.3g",
                *(now, before, step, *rates),
            )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Adds the gradients of the loss to those of the parameters; a loss that is not finite gives gradients of NaN.

        So a loss that is not finite on one process makes the norm of the averaged gradients NaN on all, and all skip the step.
        """
        loss.backward(torch.ones_like(loss).masked_fill(~loss.isfinite(), float("nan")))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients, and keeps their norm before clipping as `grad_norm`. See `skip_if_nonfinite`.

        Raises UserError for float16 gradients that a fused optimizer would unscale only after they were clipped.
        """
        if scales_gradients(self.trainer) and optimizer.defaults.get("fused"):
            raise UserError(
                "trainer.precision=16-mixed cannot clip with optimizer.fused=true: use bf16-mixed, or optimizer.fused=false"
            )
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if gradient_clip_algorithm == "value":
            self.grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            self.grad_norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val or float("inf"))
        skip_if_nonfinite(optimizer, self.grad_norm)


def align_state(optimizer: Optimizer) -> None:
    """Gives what an optimizer keeps for each weight, such as its moments, the memory format of the weight.

    Fused optimizers go through both in the order of memory; the state of a checkpoint has the format that weights had then.
    """
    for weight, state in optimizer.state.items():
        if not (isinstance(weight, Tensor) and isinstance(state, dict)):  # what an optimizer of somebody else keeps of all weights
            continue
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype, device=value.device).copy_(value)


def scales_gradients(trainer: Trainer) -> bool:
    """Returns whether a GradScaler multiplies the gradients, as in float16 training."""
    return gradient_scaler(trainer) is not None


def gradient_scaler(trainer: Trainer) -> GradScaler | None:
    """Returns the GradScaler of float16 training, or None in other precisions."""
    plugin = trainer.precision_plugin
    return plugin.scaler if isinstance(plugin, MixedPrecision) else None


def skip_if_nonfinite(optimizer: Optimizer, grad_norm: Tensor) -> None:
    """Makes the optimizer's next step change nothing, neither weights nor its own state, if the norm is not finite.

    A fused optimizer reads the flag `found_inf` on the device, as it does for a GradScaler, without synchronisation. Others have no
    such flag, and fused SGD would leave its momenta uninitialised if it skipped the first step: their gradients are removed, for
    which the norm has to be waited for.
    """
    is_fused = all(group.get("fused") for group in optimizer.param_groups)
    if is_fused and (optimizer.state or not any(group.get("momentum") for group in optimizer.param_groups)):
        optimizer.found_inf = (~grad_norm.isfinite()).float()  # type: ignore[attr-defined]
    elif not grad_norm.isfinite():
        optimizer.zero_grad(set_to_none=True)


def network_summary(network: nn.Module) -> str:
    """Returns the class of a network and the number of its parameters: "UNet, 427,009 parameters"."""
    num = sum(parameter.numel() for parameter in network.parameters())
    num_trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    trained = "" if num_trained == num else f", {num_trained:,} of them trained"
    return f"{type(network).__name__}, {num:,} parameters{trained}"
