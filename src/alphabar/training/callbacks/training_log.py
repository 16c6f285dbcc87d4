"""Loss, loss by noise level, gradient norm, learning rate and images per second."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from alphabar.errors import UserError
from alphabar.runs.checkpoints.checkpoint import must_have_types
from alphabar.runs.processes.distributed import max_over_ranks, rank_and_size, sum_over_ranks
from alphabar.training.callbacks.nonfinite import ADVICE, nonfinite_steps
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.hooks import base_module, log_every_n_steps
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.modules.base import gradient_scaler, scales_gradients

MAX_PENDING = 200  # steps whose losses wait to be added
MIN_SCALE = 1e-4  # of a GradScaler, which begins with 65,536 and halves it at every gradient that is not finite


class TrainingLog(Recurring):
    """Averages over every `trainer.log_every_n_steps` optimizer steps, kept on the device and fetched once per average.

    The noise levels 0..1, from clean data to pure noise, are cut into `num_levels` equal parts. Images per second are counted over
    all ranks, without the time that sampling and metrics take. Losses and norms that are not finite are left out.
    Raises ValueError unless num_levels >= 1, and UserError at the end of an interval in which a loss or a gradient was not finite,
    if no NonFiniteSteps callback answers that. Gradients that a GradScaler has made infinite do not count, but its factor must not
    fall below MIN_SCALE, as it does where they are NaN without it.
    """

    def __init__(self, num_levels: int = 4) -> None:
        if num_levels < 1:
            raise ValueError(f"need num_levels >= 1, got num_levels={num_levels}")
        super().__init__(every_n_steps=1)  # the Trainer says how many: see `interval`
        self.num_levels = num_levels
        self.sums = torch.zeros(2 * num_levels + 2)  # loss by level, number of examples by level, gradient norm, steps
        self.num_nonfinite = torch.zeros(1)  # losses and steps that are left out of the sums
        self.parts: dict[str, torch.Tensor] = {}  # of the loss, each summed over steps
        self.losses: list[torch.Tensor] = []  # of batches that are not in the sums yet, each [B]
        self.levels: list[torch.Tensor] = []
        self.norms: list[torch.Tensor] = []  # of the gradients of these steps
        self.counts_norms = True  # whether a norm that is not finite counts as such
        self.has_levels = False
        self.seconds = 0.0  # of training, also before the run was resumed
        self.images = 0  # trained on by all ranks, also before the run was resumed
        self.seen_step = 0
        self.last_time = 0.0

    def state_dict(self) -> dict[str, Any]:
        self._add_pending()
        sums = sum_over_ranks(self.sums).cpu()  # all ranks save their state, the first one writes the file
        num_nonfinite = sum_over_ranks(self.num_nonfinite).cpu()
        parts = {name: self._mean_over_ranks(value) for name, value in self.parts.items()}
        totals = {"seconds": self.seconds, "images": self.images}
        return {**super().state_dict(), "sums": sums, "num_nonfinite": num_nonfinite, "parts": parts, **totals}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        name, parts = "checkpoint: its callbacks.TrainingLog.", state_dict.get("parts", {})
        must_have_types(parts, dict.fromkeys(parts, float), f"{name}parts.")
        for key in ("sums", "num_nonfinite"):
            own: torch.Tensor = getattr(self, key)
            saved: torch.Tensor = state_dict.get(key, own)
            if saved.shape != own.shape:
                raise UserError(f"{name}{key} has the shape {list(saved.shape)}, need {list(own.shape)}")
            setattr(self, key, saved if rank_and_size()[0] == 0 else torch.zeros_like(own))
        self.parts = {part: torch.tensor(value) for part, value in parts.items()}
        self.seconds = state_dict.get("seconds", 0.0)
        self.images = state_dict.get("images", 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sums, self.num_nonfinite = self.sums.to(pl_module.device), self.num_nonfinite.to(pl_module.device)
        self.parts = {name: value.to(pl_module.device) for name, value in self.parts.items()}
        self.seen_step = trainer.global_step
        self.last_time = self._clock(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        module = base_module(pl_module)
        losses = outputs["losses"]
        self.has_levels = "levels" in outputs
        self.losses.append(losses)
        self.levels.append(outputs["levels"] if self.has_levels else torch.zeros_like(losses))
        if trainer.global_step == self.seen_step:  # a batch that only accumulated gradients
            return
        self.seen_step = trainer.global_step
        norm = self.sums.new_zeros(()) if module.grad_norm is None else module.grad_norm
        self.norms.append(norm)
        self.counts_norms = not scales_gradients(trainer)
        for name, value in outputs.get("parts", {}).items():
            taken = torch.where(norm.isfinite(), value.detach(), 0)
            self.parts[name] = self.parts.get(name, torch.zeros_like(value)) + taken
        if len(self.norms) >= MAX_PENDING:
            self._add_pending()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _add_pending(self) -> None:
        """Adds what waits to the sums, on a CPU in the order of the batches: a dozen calls for each batch would take their time."""
        if self.losses:
            losses, levels = torch.cat(self.losses), torch.cat(self.levels)
            bins = (levels * self.num_levels).long().clamp(max=self.num_levels - 1)
            is_finite = losses.isfinite()
            self.sums.index_add_(0, bins, torch.where(is_finite, losses, 0).float())
            self.sums.index_add_(0, bins + self.num_levels, is_finite.to(self.sums.dtype))
            self.num_nonfinite += (~is_finite).sum()
        if self.norms:
            norms = torch.stack(self.norms).to(self.sums)
            is_taken = norms.isfinite()
            place = torch.full_like(norms, len(self.sums) - 2, dtype=torch.int64)
            self.sums.index_add_(0, place, torch.where(is_taken, norms, 0))
            self.sums[-1] += is_taken.sum()
            if self.counts_norms:
                self.num_nonfinite += (~is_taken).sum()
        self.losses, self.levels, self.norms = [], [], []

    def interval(self, trainer: Trainer) -> int:
        return log_every_n_steps(trainer)

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        self._add_pending()
        all_sums = sum_over_ranks(torch.cat([self.sums, self.num_nonfinite])).cpu()
        sums, num_nonfinite = all_sums[:-1], all_sums[-1]
        if nonfinite_steps(trainer) is None and (num_nonfinite > 0 or scale_is_lost(trainer)):
            raise UserError(f"the loss or its gradient is not finite at step {trainer.global_step}: {ADVICE}")
        self.num_nonfinite.zero_()
        if sums[-1] == 0:  # the run ended before a step, or all were skipped
            return
        loss, count = sums[: self.num_levels], sums[self.num_levels : -2]
        now = self._clock(pl_module)
        elapsed = float(max_over_ranks(torch.tensor(now - self.last_time, device=self.sums.device)))
        self.last_time = now
        self.seconds += elapsed
        self.images += int(count.sum())
        figures = {"train/loss": float(loss.sum() / count.sum())}
        figures |= {f"train/{name}": self._mean_over_ranks(value) / float(sums[-1]) for name, value in self.parts.items()}
        self.parts = {}
        for index in range(self.num_levels):
            if count[index] > 0 and self.has_levels:
                name = f"train/loss_level_{index / self.num_levels:.2f}_{(index + 1) / self.num_levels:.2f}"
                figures[name] = float(loss[index] / count[index])
        figures["train/grad_norm"] = float(sums[-2] / sums[-1])
        figures["train/lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        figures["train/images_per_second"] = float(count.sum()) / max(elapsed, 1e-9)
        figures["train/images"] = self.images
        figures["train/seconds"] = self.seconds
        log_figures(trainer, figures)
        self.sums.zero_()

    def _mean_over_ranks(self, value: torch.Tensor) -> float:
        """Returns the mean of `value` over the ranks."""
        return float(sum_over_ranks(value / rank_and_size()[1]))

    def _clock(self, pl_module: LightningModule) -> float:
        return time.perf_counter() - base_module(pl_module).seconds_evaluating


def scale_is_lost(trainer: Trainer) -> bool:
    """Returns whether a GradScaler has lowered its factor so often that it is not the factor that makes gradients infinite."""
    scaler = gradient_scaler(trainer)
    return scaler is not None and scaler.get_scale() < MIN_SCALE
