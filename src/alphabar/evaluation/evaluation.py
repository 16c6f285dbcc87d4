"""The evaluation of a checkpoint, or of images, by figures."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from alphabar.data.datamodule import ImageDataModule
from alphabar.diffusion.noise import ImageNoise
from alphabar.errors import UserError
from alphabar.evaluation.compare import relevant_protocol
from alphabar.evaluation.diagnostics import diagnose_images, diagnostics_over_seeds, memorisation_panel
from alphabar.evaluation.files import open_samples
from alphabar.evaluation.images_under_test import CheckpointSamples, HeldOutImages, ImagesUnderTest, SamplesInFiles
from alphabar.evaluation.measurement import Measurement, measure_images
from alphabar.evaluation.receipt import Figure, Receipt, describe_evaluation, write_receipt
from alphabar.evaluation.reference_statistics import ReferenceStatistics, reference_statistics
from alphabar.evaluation.result import EvaluationResult
from alphabar.evaluation.sources import check_sources
from alphabar.evaluation.table import format_receipt
from alphabar.files.paths import user_path
from alphabar.metrics import Features, Splits, build_extractors
from alphabar.metrics.names import figure_name, floor_figure_name
from alphabar.metrics.statistics import Statistic
from alphabar.runs.floor import MEAN_FID
from alphabar.runs.provenance.receipt import json_sha256
from alphabar.sampling.inference import Inference
from alphabar.sampling.prepare import removed_on_error
from alphabar.speed import FLOAT32

log = logging.getLogger(__name__)
DEFAULT_NUM = 1000
MAX_NOISE = 1000
SINGLE_FEATURES = ("classifier", "selfsup", "pixels", "inception", "dinov2", "clip", "contrastive")  # choices of one kind
# Keys of protocols that a sweep may vary while it compares figures.
SWEPT_KEYS = ("weights", "sampler", "guidance", "precision", "seeds", "num_nonfinite")
# These settings of inference have no effect without a checkpoint.
CHECKPOINT_KEYS = ("sampler", "guidance", "weights", "ema_length", "ema_decay", "codec_name", "clip_name", "data_root")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measures how good images are: by themselves, and against training images in the features of one or several networks.

    inference: draws samples of its checkpoint; its `num` is not used. samples: a folder or an .npz file of images in their place.
    data: the real images; with neither checkpoint nor samples its held-out images are evaluated. None: those of the checkpoint.
    num: the number of images; None: 1,000 samples of a checkpoint, or all images there are. num_seeds: sets of samples, from
    `inference.seed` upwards, over which figures are averaged. statistics: the figures, by name.
    Raises ValueError unless num >= 2 and num_seeds >= 1, and for a combination of checkpoint, samples and data that makes no sense.
    """

    inference: Inference
    features: Features | None
    statistics: Mapping[str, Statistic | None]
    samples: str | None = None
    data: ImageDataModule | None = None
    num: int | None = None
    num_seeds: int = 1

    def __post_init__(self) -> None:
        checkpoint = self.inference.checkpoint
        if self.num is not None and self.num < 2:
            raise ValueError(f"need num >= 2, got num={self.num}")
        if self.num_seeds < 1:
            raise ValueError(f"need num_seeds >= 1, got num_seeds={self.num_seeds}")
        check_sources(checkpoint is not None, self.samples is not None, self.data is not None)
        if checkpoint is None:
            self._check_unused_settings()

    def _check_unused_settings(self) -> None:
        """Raises ValueError for a setting that has no effect without a checkpoint."""
        defaults = {each.name: each.default for each in fields(Inference)}
        changed = ["num_seeds"] if self.num_seeds != 1 else []
        changed += [key for key in CHECKPOINT_KEYS if vars(self.inference)[key] != defaults[key]]
        changed += ["precision"] if self.inference.precision not in (None, FLOAT32) else []
        changed += ["stages"] if self.inference.stages else []
        if changed:
            raise ValueError(f"{changed[0]}: only samples of a checkpoint have that; give checkpoint=..., or leave it out")

    def run(self) -> EvaluationResult:
        """Measures the images and writes `receipt.json`."""
        begin = time.perf_counter()
        if self.features is None:
            raise UserError(
                "features=none: a figure needs features; take auto, classifier, selfsup, pixels, inception, dinov2, clip or all"
            )
        images = self._images()
        fabric = images.start()
        seeds = () if images.is_real else tuple(range(self.inference.seed, self.inference.seed + self.num_seeds))
        with removed_on_error(self.inference.run_dir):
            references = self._references(self.features, images, fabric)
            size = images.data.shape
            measurements = [measure_images(images.batches(seed), size, references, images.targets) for seed in seeds]
        description = images.describe()
        figures = figures_over_seeds(references, measurements, description.label)
        if isinstance(images, CheckpointSamples):
            figures += noise_fid(images, references[0], self.inference.seed)
            if fabric.is_global_zero:
                tell_of_other_features(images.loaded.config, references)
        diagnostics = [diagnose_images(references[0], each, with_neighbours=index == 0) for index, each in enumerate(measurements)]
        protocol = {**self._protocol(images, references, seeds, measurements), **description.protocol}
        result = EvaluationResult(sweep_values(figures, protocol, description.costs))
        if not fabric.is_global_zero:
            return result
        folder = Path(self.inference.run_dir)
        details = {**description.run, "seed": self.inference.seed, "data": images.data.source.fingerprint()}
        receipt = Receipt(
            tuple(figures),
            protocol,
            {**description.identity, "content": [each.content for each in measurements]},
            diagnostics_over_seeds(diagnostics, seeds),
            {**describe_evaluation(fabric, folder, time.perf_counter() - begin, details), **description.costs},
        )
        return result._replace(
            table=format_receipt(receipt),
            receipt=write_receipt(receipt, folder),
            panel=memorisation_panel(diagnostics[0], measurements[0], references[0]) if diagnostics else None,
        )

    def _references(self, features: Features, images: ImagesUnderTest, fabric: Fabric) -> list[ReferenceStatistics]:
        """Returns the statistics of the real images for each kind of features.

        Raises UserError if real images or features are not available, or images are too few.
        """
        data = images.open(features.reads_captions)
        splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint(), data.captions)
        sizes = images.num, self.inference.images_at_a_time
        return reference_statistics(build_extractors(features, splits), self._chosen_statistics(), splits, fabric.device, *sizes)

    def _chosen_statistics(self) -> dict[str, Statistic]:
        return {name: statistic for name, statistic in self.statistics.items() if statistic is not None}

    def _images(self) -> ImagesUnderTest:
        settings = self.inference
        if settings.checkpoint is not None:
            return CheckpointSamples(replace(settings, num=self.num or DEFAULT_NUM))
        assert self.data is not None
        if self.samples is None:
            return HeldOutImages(self.data, self.num, settings)
        files = open_samples(user_path(self.samples), self.data.shape.channels == 4, self.data.bits)
        return SamplesInFiles(self.samples, files, self.data, self.num, settings)

    def _protocol(
        self,
        images: ImagesUnderTest,
        references: Sequence[ReferenceStatistics],
        seeds: Sequence[int],
        measurements: Sequence[Measurement],
    ) -> dict[str, Any]:
        first = references[0]
        held_out = first.held_out
        floor = None if held_out is None else {"split": "held-out", "num": held_out.num, "content": held_out.content}
        return {
            "num": images.num,
            "seeds": list(seeds) if isinstance(images, CheckpointSamples) else [],
            "num_nonfinite": sum(each.num_nonfinite for each in measurements),
            "reference": {"split": "training", "num": first.real.num, "content": first.real.content},
            "floor": floor,
            "extractors": {each.extractor.name: each.extractor.description for each in references},
            "statistics": self._chosen_statistics(),
            **({} if images.data.bits == 8 else {"bits": f"8 of {images.data.bits}, rounded"}),
        }


def figures_over_seeds(references: Sequence[ReferenceStatistics], measurements: Sequence[Measurement], label: str) -> list[Figure]:
    """Returns every figure with its values over seeds and its floor, or the floor alone if no images were generated."""
    figures = []
    for reference in references:
        extractor, floor, statistics = reference.extractor.name, reference.floor(), reference.statistic_names
        num_held_out = 0 if reference.held_out is None else reference.held_out.num
        if not measurements:
            for metric, value in floor.items():
                name = floor_figure_name(metric, num_held_out, extractor)
                figures.append(Figure(name, metric, extractor, (value,), None, statistics[metric]))
        for metric in dict.fromkeys(metric for each in measurements for metric in each.figures[extractor]):
            values = tuple(each.figures[extractor].get(metric, math.nan) for each in measurements)
            name = figure_name(metric, num_held_out if metric == MEAN_FID else reference.num, extractor, label)
            figures.append(Figure(name, metric, extractor, values, floor.get(metric), statistics[metric]))
    return figures


def tell_of_other_features(config: DictConfig, references: Sequence[ReferenceStatistics]) -> None:
    """Logs a line if the run of a checkpoint measured FID in other features than these, since the two do not compare."""
    trained = OmegaConf.select(config, "choices.features")
    names = [reference.extractor.name for reference in references if "fid" in reference.statistics]
    if trained in SINGLE_FEATURES and names and not any(name.startswith(trained) for name in names):
        log.info(
            "FID is in %s features here, and was in %s in training: features=%s compares with that", names[0], trained, trained
        )


def noise_fid(images: CheckpointSamples, reference: ReferenceStatistics, seed: int) -> list[Figure]:
    """Returns the FID of the noise that sampling starts from, for at most 1,000 images: the other end of the scale.

    There is none if FID is not measured.
    """
    if "fid" not in reference.statistics:
        return []
    num, fabric = min(images.num, MAX_NOISE), images.fabric
    collector = reference.collector(num)
    for padded in images.job.batches(num, fabric.global_rank, fabric.world_size):
        indices = [index for index in padded if index < num]
        noise = ImageNoise(seed, indices).draw(images.job.space)
        collector.add(indices, images.loaded.model.codec.decode(noise))
    value = reference.figures(collector.compute(), only="fid").get("fid")
    extractor = reference.extractor.name
    return [] if value is None else [Figure(figure_name("fid", num, extractor, "noise"), "fid", extractor, (value,), None, "fid")]


def sweep_values(figures: Sequence[Figure], protocol: Mapping[str, Any], costs: Mapping[str, float]) -> dict[str, object]:
    """Returns the values for a sweep's table and picture: FID, if it was measured, with a hash of its protocol.

    The mean FID over sets follows it where that is what has the floor.
    """
    values: dict[str, object] = {each.name: each.mean for each in figures}
    fid = next((each for each in figures if each.metric == "fid" and not each.name.endswith("-noise")), None)
    if fid is None:
        return {**values, **costs}
    settings = relevant_protocol(protocol, [fid])
    fixed = {key: value for key, value in settings.items() if key not in SWEPT_KEYS}
    entries: dict[str, dict[str, Any]] = {"fid": {**_sweep_entry(fid), "protocol": json_sha256(fixed)}}
    if (
        over_sets := next((each for each in figures if (each.metric, each.extractor) == (MEAN_FID, fid.extractor)), None)
    ) is not None:
        entries[MEAN_FID] = _sweep_entry(over_sets)
    mean = entries["fid"]["value"]
    return {**values, **entries, **costs, "objective": math.inf if mean is None else mean}


def _sweep_entry(figure: Figure) -> dict[str, Any]:
    return {"name": figure.name, "value": figure.mean if math.isfinite(figure.mean) else None, "floor": figure.floor}
