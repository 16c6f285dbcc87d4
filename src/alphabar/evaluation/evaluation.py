"""The evaluation of a checkpoint, or of images, by figures."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from alphabar.data.datamodule import ImageDataModule
from alphabar.diffusion.noise import ImageNoise
from alphabar.errors import UserError
from alphabar.evaluation.compare import relevant
from alphabar.evaluation.diagnostics import Diagnostics, draw_panel, find, record
from alphabar.evaluation.files import open_samples
from alphabar.evaluation.images_under_test import CheckpointSamples, HeldOutImages, ImagesUnderTest, SamplesInFiles
from alphabar.evaluation.measurement import Measurement, measure
from alphabar.evaluation.receipt import Figure, Receipt, circumstances, digest, write
from alphabar.evaluation.reference_statistics import ReferenceStatistics
from alphabar.evaluation.table import shown_figures
from alphabar.metrics import Features, Splits
from alphabar.metrics.measure import extractors_of
from alphabar.metrics.names import floor_protocol, protocol
from alphabar.metrics.statistics import Statistic
from alphabar.runs.paths import display_path
from alphabar.sampling.inference import Inference
from alphabar.sampling.prepare import withdrawn_on_error

DEFAULT_NUM = 1000
MAY_BE_SWEPT = ("weights", "sampler", "guidance", "precision", "seeds", "num_nonfinite")  # single checkpoint
MAX_NOISE = 1000
# These settings of inference have no effect without a checkpoint.
OF_CHECKPOINTS = ("sampler", "guidance", "weights", "ema_length", "ema_decay", "codec_name", "clip_name", "data_root", "precision")


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
        if checkpoint is not None and (self.samples is not None or self.data is not None):
            other = "samples" if self.samples is not None else "data"
            raise ValueError(
                f"need checkpoint=... or {other}=..., got both; the real images of a checkpoint are those of its training"
            )
        if checkpoint is None and self.data is None:
            given = "samples=... needs the real images beside it" if self.samples is not None else "got none of them"
            raise ValueError(f"need checkpoint=PATH, or samples=PATH data=NAME, or data=NAME alone: {given}")
        if checkpoint is None:
            self._must_need_no_checkpoint()

    def _must_need_no_checkpoint(self) -> None:
        """Raises ValueError for a setting that would do nothing."""
        defaults = {each.name: each.default for each in fields(Inference)}
        changed = ["num_seeds"] if self.num_seeds != 1 else []
        changed += [key for key in OF_CHECKPOINTS if vars(self.inference)[key] != defaults[key]]
        changed += ["stages"] if self.inference.stages else []
        if changed:
            raise ValueError(f"{changed[0]}: only samples of a checkpoint have that; give checkpoint=..., or leave it out")

    def run(self) -> dict[str, object]:
        """Measures, prints a table, writes `receipt.json` and a picture; returns what a sweep compares."""
        begin = time.perf_counter()
        if self.features is None:
            raise UserError("features=none: a figure needs features; take classifier, inception, dinov2, clip or all")
        subject = self._subject()
        fabric = subject.start()
        seeds = () if subject.is_real else tuple(range(self.inference.seed, self.inference.seed + self.num_seeds))
        with withdrawn_on_error(self.inference.run_dir):
            judges = self._judges(self.features, subject, fabric)
            shape = subject.data.shape
            size = (shape.channels, shape.resolution, shape.resolution)
            measured = [measure(subject.shares(seed), size, judges, subject.facts) for seed in seeds]
        figures = collect(judges, measured, subject.label)
        if isinstance(subject, CheckpointSamples):
            figures += noise(subject, judges[0], self.inference.seed)
        found = [find(judges[0], each, with_neighbours=index == 0) for index, each in enumerate(measured)]
        protocol = self._protocol(subject, judges, seeds, measured)
        if fabric.is_global_zero:
            identity = {**subject.identity(), "content": [each.content for each in measured]}
            run = {**circumstances(fabric, time.perf_counter() - begin), **subject.costs()}
            receipt = Receipt(tuple(figures), protocol, identity, record(found, seeds), run)
            self._leave(receipt, found, measured, judges[0])
        return result(figures, subject, protocol)

    def _judges(self, features: Features, subject: ImagesUnderTest, fabric: Fabric) -> list[ReferenceStatistics]:
        """Returns the statistics of the reference images for each kind of features.

        Raises UserError if real images or features are not available, or images are too few.
        """
        data = subject.open()
        splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint(), data.captions)
        chosen = {name: each for name, each in self.statistics.items() if each is not None}
        extractors = [each for each in extractors_of(features, splits) if any(one.applies(each) for one in chosen.values())]
        if not extractors:
            raise UserError(f"statistics: nothing to measure, none of {', '.join(chosen) or 'no statistics'} is for these features")
        return [
            ReferenceStatistics(each, chosen, splits, fabric.device, subject.num, self.inference.batch_size) for each in extractors
        ]

    def _subject(self) -> ImagesUnderTest:
        settings = self.inference
        if settings.checkpoint is not None:
            return CheckpointSamples(replace(settings, num=self.num or DEFAULT_NUM))
        assert self.data is not None
        devices = (settings.accelerator, settings.devices)
        if self.samples is None:
            return HeldOutImages(self.data, self.num, settings.run_dir, devices)
        files = open_samples(Path(self.samples))
        return SamplesInFiles(self.samples, files, self.data, self.num, settings.batch_size, settings.run_dir, devices)

    def _protocol(
        self, subject: ImagesUnderTest, judges: Sequence[ReferenceStatistics], seeds: Sequence[int], measured: Sequence[Measurement]
    ) -> dict[str, Any]:
        first = judges[0]
        held_out = first.held_out
        floor = None if held_out is None else {"split": "held-out", "num": held_out.num, "content": held_out.content}
        return {
            "num": subject.num,
            "seeds": list(seeds) if isinstance(subject, CheckpointSamples) else [],
            "num_nonfinite": sum(each.num_nonfinite for each in measured),
            "reference": {"split": "training", "num": first.real.num, "content": first.real.content},
            "floor": floor,
            "extractors": {judge.extractor.name: judge.extractor.record for judge in judges},
            "statistics": {name: each for name, each in self.statistics.items() if each is not None},
            **subject.protocol(),
        }

    def _leave(
        self, receipt: Receipt, found: Sequence[Diagnostics], measured: Sequence[Measurement], judge: ReferenceStatistics
    ) -> None:
        folder = Path(self.inference.run_dir)
        print(shown_figures(receipt))
        print(f"receipt  {display_path(write(receipt, folder))}")
        if found and (panel := draw_panel(found[0], measured[0], judge.training, folder)) is not None:
            print(f"picture  {display_path(panel)}")


def collect(judges: Sequence[ReferenceStatistics], measured: Sequence[Measurement], label: str) -> list[Figure]:
    """Returns every figure with its values over seeds and its floor, or the floor alone if no images were generated."""
    figures = []
    for judge in judges:
        origin = judge.origins
        name, floor = judge.extractor.name, judge.floor()
        num_floor = 0 if judge.held_out is None else judge.held_out.num
        if not measured:
            for what, value in floor.items():
                figures.append(Figure(floor_protocol(what, num_floor, name), what, name, (value,), None, origin[what]))
        whats = dict.fromkeys(what for each in measured for what in each.figures[name])
        for what in whats:
            values = tuple(each.figures[name].get(what, float("nan")) for each in measured)
            figures.append(Figure(protocol(what, judge.num, name, label), what, name, values, floor.get(what), origin[what]))
    return figures


def noise(subject: CheckpointSamples, judge: ReferenceStatistics, seed: int) -> list[Figure]:
    """Returns the FID of the noise that sampling starts from, for at most 1,000 images: the other end of the scale."""
    if "fid" not in judge.statistics:
        return []
    num, fabric = min(subject.num, MAX_NOISE), subject.fabric
    collector = judge.collector(num)
    for padded in subject.job.batches(num, fabric.global_rank, fabric.world_size):
        indices = [index for index in padded if index < num]
        images = ImageNoise(seed, indices).draw(subject.job.space)
        collector.add(indices, subject.loaded.model.codec.decode(images))
    value = judge.figures(collector.collected(), only="fid").get("fid")
    name = judge.extractor.name
    return [] if value is None else [Figure(protocol("fid", num, name, "noise"), "fid", name, (value,), None, "fid")]


def result(figures: Sequence[Figure], subject: ImagesUnderTest, protocol: Mapping[str, Any]) -> dict[str, object]:
    """Returns the values for a sweep's table and picture: FID, if it was measured, with a hash of its protocol."""
    found = {each.name: each.mean for each in figures}
    fid = next((each for each in figures if each.what == "fid" and not each.name.endswith("-noise")), None)
    if fid is None:
        return {**found, **subject.costs()}
    value = fid.mean if math.isfinite(fid.mean) else None
    settings = relevant(protocol, [(fid.what, fid.extractor, fid.statistic)])
    conditions = {key: value for key, value in settings.items() if key not in MAY_BE_SWEPT}
    merit = {"name": fid.name, "value": value, "floor": fid.floor, "protocol": digest(conditions)}
    return {**found, "fid": merit, **subject.costs(), "objective": math.inf if value is None else value}
