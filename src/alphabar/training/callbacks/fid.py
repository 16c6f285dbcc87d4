"""Frechet Inception distance during training, with its floor, and diagnostics of the samples."""

import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from alphabar.diffusion.samplers import Sampler
from alphabar.evaluation.diagnostics import Diagnostics, diagnose_images, memorisation_panel
from alphabar.evaluation.measurement import Measurement, measure_images
from alphabar.evaluation.reference_statistics import ReferenceStatistics, reference_statistics
from alphabar.metrics import Features, Splits, TooFewImages, build_extractors
from alphabar.metrics.names import figure_name, floor_figure_name
from alphabar.metrics.statistics import Statistic
from alphabar.metrics.statistics.frechet import Frechet
from alphabar.plotting.memorisation import PANEL, draw_memorisation
from alphabar.runs.floor import MEAN_FID
from alphabar.sampling.conditions import dataset_conditions, dataset_targets, evaluation_images
from alphabar.sampling.guidance_config import Guide, guidance_label
from alphabar.sampling.sampling_job import sampler_for_codec
from alphabar.training.callbacks.sampling_callback import SamplingCallback
from alphabar.training.ema import weight_averages
from alphabar.training.hooks import diffusion_module, evaluation, image_data
from alphabar.training.loggers.log_helpers import keep_figures, log_figures, log_file
from alphabar.training.modules.diffusion import DiffusionModule

log = logging.getLogger(__name__)


class FID(SamplingCallback):
    """Logs, every so many steps and at the end, the FID of `num` samples to the training images, under a name with its protocol.

    The floor, the FID of as many held-out images, is logged at the start; where there are only m < num of these, the mean FID over
    sets of m samples, which compares with that floor, is logged beside FID (`fid_mean/...`). The same samples show colour casts,
    contrast, saturation and diversity (`health/...`) and, at the end, copied training images. Images with NaN or infinity are
    counted as `samples/num_nonfinite` and left out. A conditional model samples image i under the condition of training image i,
    or of held-out image i if conditions are made from images.

    statistics: further ones of evaluation, by name, measured of the same samples at the same steps; see `Statistic`.
    features: the features to compare, or None for no FID. With fewer than two training images there is none either, in one line.
    Other arguments and errors: see `SamplingCallback`.
    """

    min_num = 2
    title = "FID"
    draws_images = True
    differs_at_end = True  # by copies of training images

    def __init__(
        self,
        features: Features | None,
        sampler: Sampler,
        seed: int,
        num: int,
        every_n_steps: int,
        batch_size: int = 250,
        guidance: Guide | None = None,
        statistics: Mapping[str, Statistic | None] | None = None,
    ) -> None:
        super().__init__(sampler, seed, num, every_n_steps, batch_size, guidance)
        self.statistics = {name: each for name, each in (statistics or {}).items() if each is not None}
        self.features = features
        self.references: list[ReferenceStatistics] = []  # the first of them computes FID
        self.label = ""  # of the samples, in the names of figures

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.features is None:
            return
        try:
            self._measure_real_images(trainer, diffusion_module(pl_module, self), self.features)
        except TooFewImages as error:
            if trainer.is_global_zero:
                log.warning("no FID and no health of samples: %s", error)

    def _measure_real_images(self, trainer: Trainer, module: DiffusionModule, features: Features) -> None:
        """Makes the reference and the floor. Raises TooFewImages if there are too few for either, UserError for other faults."""
        with evaluation(trainer, module):
            data = image_data(trainer)
            splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint(), data.captions)
            extractor = build_extractors(features, splits)[0]
            weights = "raw" if weight_averages(trainer) is None else "ema"
            sampler = sampler_for_codec(self.sampler, module.codec).label(module.denoiser.schedule)
            self.label = f"{weights}-{sampler}{guidance_label(self.guidance)}"
            statistics = {**self.statistics, "fid": Frechet(allow_few=True)}
            sizes = module.device, self.num, self.batch_size
            self.references = reference_statistics([extractor], statistics, splits, *sizes)
            reference = self.references[0]
            floor = reference.floor()
        if trainer.is_global_zero and self.num <= extractor.num_features:
            log.warning(
                "callbacks.fid.num=%d: with fewer images than the %d features FID is mostly bias", self.num, extractor.num_features
            )
        if reference.held_out is not None:
            value = floor["fid"] if "fid" in floor else floor[MEAN_FID]
            module.figures[floor_figure_name("fid", reference.held_out.num, extractor.name)] = value

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        floor = {name: value for name, value in diffusion_module(pl_module, self).figures.items() if name.startswith("fid/floor")}
        if trainer.global_step == 0 and floor:
            log_figures(trainer, floor)

    def planned_evaluations(self, trainer: Trainer, pl_module: LightningModule) -> int:
        return 0 if self.features is None else super().planned_evaluations(trainer, pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule, is_last: bool) -> None:
        if not self.references:
            return
        reference = self.references[0]
        module = diffusion_module(pl_module, self)
        conditioner, images = module.conditioner, evaluation_images(module.conditioner, image_data(trainer))
        with evaluation(trainer, module):
            job, batches = self.sample_batches(trainer, module, dataset_conditions(conditioner, images), self.num)
            targets = partial(dataset_targets, conditioner, images)
            measurement = measure_images(batches, job.shape, self.references, targets)
            diagnostics = diagnose_images(reference, measurement, with_neighbours=is_last)
        measured = measurement.figures[reference.extractor.name]
        value = measured.get("fid", math.nan)
        figures = {figure_name("fid", self.num, reference.extractor.name, self.label): value, **self._others(measurement)}
        if reference.held_out is not None and reference.held_out.num < self.num:
            name = figure_name(MEAN_FID, reference.held_out.num, reference.extractor.name, self.label)
            figures[name] = measured.get(MEAN_FID, math.nan)
        log_figures(trainer, {**figures, "samples/num_nonfinite": measurement.num_nonfinite, **diagnostics.figures()})
        keep_figures(trainer, {"fid": value if math.isfinite(value) else math.inf})
        if trainer.is_global_zero:
            self._report(trainer, reference, measurement, diagnostics)

    def _others(self, measurement: Measurement) -> dict[str, float]:
        """Returns the figures of all statistics except FID, by their names in receipts."""
        return {
            figure_name(kind, self.num, reference.extractor.name, self.label): value
            for reference in self.references
            for kind, value in measurement.figures[reference.extractor.name].items()
            if reference.statistic_names[kind] != "fid"
        }

    def _report(self, trainer: Trainer, reference: ReferenceStatistics, measurement: Measurement, diagnostics: Diagnostics) -> None:
        for line in diagnostics.warnings:
            log.warning("samples at step %d: %s", trainer.global_step, line)
        panel = memorisation_panel(diagnostics, measurement, reference)
        if panel is not None:
            path = Path(trainer.default_root_dir) / PANEL
            draw_memorisation(panel, path)
            log_file(trainer, "memorisation", path)
