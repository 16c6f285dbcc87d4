"""Frechet Inception distance during training, with its floor."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from alphabar.diffusion.samplers import Sampler
from alphabar.training.callbacks.ema import averages_of
from alphabar.training.generate import Generation
from alphabar.training.hooks import diffusion_module, due, evaluation, image_data
from alphabar.training.loggers.mirror import log_figures
from alphabar.training.metrics import Features, Splits
from alphabar.training.metrics.frechet import FrechetDistance
from alphabar.training.metrics.measure import extractor_of, measure
from alphabar.training.metrics.names import floor_protocol, protocol
from alphabar.training.metrics.reference import learn_real, measure_floor


class FID(Callback):
    """Every so many steps and at the end: the distance of `num` samples to the training images, under a name that says how.

    All ranks sample their share, `batch_size` at a time. The floor, that of as many held-out images, is logged at the start.
    Images with NaN or infinity are counted as `samples/num_nonfinite` and left out. features: None for no FID.
    Raises ValueError unless num >= 2 and every_n_steps, batch_size >= 1.
    """

    def __init__(
        self,
        features: Features | None,
        sampler: Sampler,
        seed: int,
        num: int,
        every_n_steps: int,
        batch_size: int = 250,
    ) -> None:
        if num < 2 or every_n_steps < 1 or batch_size < 1:
            raise ValueError(
                f"need num >= 2, every_n_steps >= 1 and batch_size >= 1, got num={num}, every_n_steps={every_n_steps}, "
                f"batch_size={batch_size}"
            )
        self.features = features
        self.sampler = sampler
        self.seed = seed
        self.num = num
        self.every_n_steps = every_n_steps
        self.batch_size = batch_size
        self.last_step = -1
        self.distance: FrechetDistance | None = None
        self.name = ""

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_step = state_dict["last_step"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.features is None:
            return
        module = diffusion_module(pl_module)
        with evaluation(trainer, module):
            data = image_data(trainer)
            splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint())
            extractor = extractor_of(self.features, splits)
            weights = "raw" if averages_of(trainer) is None else "ema"
            self.name = protocol(self.num, extractor.name, weights, self.sampler.label(module.denoiser.schedule))
            self.distance = FrechetDistance(extractor, module.device)
            learn_real(self.distance, splits, None, self.batch_size)
            floor = measure_floor(self.distance, splits.held_out, self.num, self.batch_size)
        if floor is not None:
            module.figures[floor_protocol(floor.num_images, extractor.name)] = floor.distance

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        floor = {name: value for name, value in diffusion_module(pl_module).figures.items() if name.startswith("fid/floor")}
        if trainer.global_step == 0 and floor:
            log_figures(trainer, floor)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if due(trainer, self.every_n_steps, self.last_step):
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.last_step != trainer.global_step:  # ended by max_epochs or max_time
            self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last_step, distance = trainer.global_step, self.distance
        if distance is None:
            return
        module = diffusion_module(pl_module)
        generation = Generation(self.sampler, image_data(trainer).shape, self.seed, min(self.batch_size, self.num))
        with evaluation(trainer, module):
            share = generation.images(
                module.denoiser, module.codec, self.num, module.device, trainer.global_rank, trainer.world_size
            )
            value, num_nonfinite = measure(distance, share)
        log_figures(trainer, {self.name: value, "samples/num_nonfinite": num_nonfinite})
        module.figures["fid"] = value if math.isfinite(value) else math.inf
