"""The loss on held-out images with little variance: always the same images, times and noise."""

import logging
import math
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from alphabar.diffusion.noise import ImageNoise, derive_seed
from alphabar.diffusion.objectives import regress
from alphabar.runs.processes.distributed import rank_and_size, sum_over_ranks
from alphabar.training.callbacks.progress import show_phase
from alphabar.training.callbacks.recurring import Recurring
from alphabar.training.callbacks.stopping import interruptible
from alphabar.training.ema import weight_averages
from alphabar.training.hooks import diffusion_module, evaluation, image_data
from alphabar.training.loggers.log_helpers import log_figures
from alphabar.training.modules.diffusion import DiffusionModule

log = logging.getLogger(__name__)
SEED = derive_seed("held-out loss")  # not the run's: runs are compared on the same noise
CONDITION_SEED = derive_seed("held-out condition")
GOLDEN = (math.sqrt(5) - 1) / 2
EDGES = ("1e-2", "1e-1", "1e0", "1e1", "1e2")
BINS = [f"{low}_{high}" for low, high in zip(("0", *EDGES), (*EDGES, "inf"), strict=True)]


class HeldOutLoss(Recurring):
    """Logs the mean squared error of the network's output against its target: first, every so many steps and at the end.

    It is that of the run's parameterization without weighting or importance, so that among runs with the same parameterization and
    schedule it compares. Its bank is fixed: the first `num` held-out images (all, if they are fewer; without any this is off), each
    at `num_times` noise levels that lie evenly in the schedule's own time (`levels`), with noise that is a function of image and
    draw alone, independent of the image whatever the run's coupling. With `data.buckets` each image has the size of its bucket.

    `held_out/loss` is of the live weights, `held_out/loss_ema` of the first average if the run keeps any; both come once more by
    signal-to-noise ratio snr = (alpha / sigma)^2, in decades from 1e-2 to 1e2 and what lies beyond (`held_out/loss_snr_1e-1_1e0`),
    where bins without a pair are left out. So most schedules have all six bins: EDM, with its sigma of 0.002 to 80, has a fifth of
    its levels above 1e2 and a third below 1e-2, the linear schedule a thirtieth and a third.

    batch_size: images of each rank, at a time. With R ranks each looks at every R-th image, and keeps their bytes in memory.
    Raises ValueError unless all four are >= 1.
    """

    acts_at_start = True

    def __init__(self, num: int, every_n_steps: int, num_times: int = 4, batch_size: int = 128) -> None:
        if min(num, every_n_steps, num_times, batch_size) < 1:
            raise ValueError(
                f"need num, every_n_steps, num_times and batch_size >= 1, got num={num}, every_n_steps={every_n_steps}, "
                f"num_times={num_times}, batch_size={batch_size}"
            )
        super().__init__(every_n_steps)
        self.num = num
        self.num_times = num_times
        self.batch_size = batch_size
        self.is_on = False
        self.num_batches = 0  # of the rank that has most
        self.bank: list[tuple[Tensor, dict[str, Tensor]]] = []  # this rank's indices [B], and batches of the data

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        held_out = image_data(trainer).held_out_in_buckets
        num, (rank, world_size) = min(self.num, len(held_out)), rank_and_size()
        self.is_on = num > 0
        if not self.is_on and rank == 0:
            log.warning("the data has no held-out images, so there is no held-out loss")
        shares = [
            [part for same in held_out.split_by_shape(torch.arange(each, num, world_size)) for part in same.split(self.batch_size)]
            for each in range(world_size)
        ]
        self.num_batches = max(map(len, shares))
        self.bank = [(indices, held_out.training_batch(indices, None)) for indices in shares[rank] if len(indices)]

    def planned_evaluations(self, trainer: Trainer, pl_module: LightningModule) -> int:
        num_weights = 1 if weight_averages(trainer) is None else 2
        num_images = min(self.num, len(image_data(trainer).held_out_in_buckets))
        return self.num_acts(trainer) * num_images * self.num_times * num_weights

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        if not self.is_on:
            return
        module, averages = diffusion_module(pl_module, self), weight_averages(trainer)
        has_averages = averages is not None and averages.num_updates > 0  # else they are the live weights
        with show_phase(trainer, "held-out loss", self.num_batches * (1 + has_averages), "batch") as bar:
            with evaluation(trainer, module, live=True):
                sums = self.sums(module, bar.update)
            figures = loss_figures("held_out/loss", sums)
            if has_averages:
                with evaluation(trainer, module):
                    sums = self.sums(module, bar.update)
        if averages is not None:
            figures |= loss_figures("held_out/loss_ema", sums)
        log_figures(trainer, figures)

    def sums(self, module: DiffusionModule, on_batch: Callable[[], object] = lambda: None) -> Tensor:
        """Returns the summed losses of the whole bank and their number by bin: float64 [2, len(BINS)]; all ranks call it.

        on_batch: is called after every batch.
        """
        parts = []
        for indices, batch in interruptible(self.bank, self.num_batches, module.device):
            parts.append(self._losses(module, indices, batch))
            on_batch()
        sums = torch.zeros(2, len(BINS), dtype=torch.float64)
        if parts:
            snr, losses = torch.cat(parts, dim=1).cpu().double()
            bins = torch.bucketize(snr, torch.tensor([float(edge) for edge in EDGES], dtype=torch.float64))
            sums.index_add_(1, bins, torch.stack([losses, torch.ones_like(losses)]))
        # Apple's GPUs have no float64, and no other processes.
        return sums if module.device.type == "mps" else sum_over_ranks(sums.to(module.device)).cpu()

    def _losses(self, module: DiffusionModule, indices: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Returns the signal-to-noise ratio and the loss of every pair: [2, num_times * B] on the device."""
        denoiser, schedule = module.denoiser, module.denoiser.schedule
        x = module.codec.encode(batch["image"].to(module.device))
        cond = module.conditioner.for_evaluation(batch, ImageNoise(CONDITION_SEED, indices.tolist()))
        noise = ImageNoise(SEED, indices.tolist())
        parts: list[Tensor] = []
        for level in levels(indices, self.num_times).to(module.device):
            eps, t = noise(x), schedule.time(level)
            noised = schedule.noised(x, t, eps)
            _, losses = regress(denoiser, noised, cond)
            parts.append(torch.stack([(noised.scales.alpha / noised.scales.sigma).float().square(), losses.float()]))
        return torch.cat(parts, dim=1)


def levels(indices: Tensor, num_times: int) -> Tensor:
    """Returns the noise levels of the images `indices` [B]: float32 [num_times, B] in (0, 1).

    Pair j of the bank has the fractional part of 1/2 + j * (sqrt(5) - 1) / 2. So the levels of one image lie evenly, those of the
    whole bank do, and those of the first images stay what they are when there are more.
    """
    pairs = indices * num_times + torch.arange(num_times).unsqueeze(1)
    return ((0.5 + pairs.double() * GOLDEN) % 1).float()


def loss_figures(name: str, sums: Tensor) -> dict[str, float]:
    """Returns the mean over all pairs under `name`, and the mean of each bin that has any."""
    losses, counts = sums
    figures = {name: float(losses.sum() / counts.sum())}
    for label, loss, count in zip(BINS, losses.tolist(), counts.tolist(), strict=True):
        if count > 0:
            figures[f"{name}_snr_{label}"] = loss / count
    return figures
