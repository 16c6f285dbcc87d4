"""From a checkpoint, or from images, to figures."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.fabric import Fabric

from alphabar.data.datamodule import ImageDataModule
from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.thresholdings import Static
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
from alphabar.runs.console import shown
from alphabar.sampling.guidance_config import Guide
from alphabar.sampling.inference import Inference, Precision
from alphabar.sampling.prepare import withdrawn_on_complaint

DEFAULT_NUM = 1000
MAY_BE_SWEPT = ("weights", "sampler", "guidance", "precision", "seeds", "num_nonfinite")  # of one checkpoint
MAX_NOISE = 1000


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good images are: by themselves, and against training images in the features of one or several networks.

    checkpoint: whose samples are judged. samples: a folder or an .npz file of images to be judged in place of samples.
    data: the real images; with neither checkpoint nor samples its held-out images are judged. None: those of the checkpoint.
    num: how many images; None: 1,000 samples of a checkpoint, and else all. num_seeds: sets of samples, from `seed` upwards, over
    which figures are averaged. statistics: which figures, by name.
    The rest is as in `Inference`. Raises ValueError as that does, unless num >= 2 and num_seeds >= 1, and for a combination of
    checkpoint, samples and data that makes no sense.
    """

    run_dir: str
    sampler: Sampler
    features: Features | None
    statistics: Mapping[str, Statistic | None]
    guidance: Guide | None = None
    stages: Sequence[str] = ()
    checkpoint: str | None = None
    samples: str | None = None
    data: ImageDataModule | None = None
    data_root: str | None = None
    num: int | None = None
    seed: int = 1
    num_seeds: int = 1
    weights: Literal["ema", "raw"] = "ema"
    ema_length: float | None = None
    ema_decay: float | None = None
    codec_name: str | None = None
    clip_name: str | None = None
    batch_size: int = 250
    accelerator: str = "auto"
    devices: int | str = 1
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 2:
            raise ValueError(f"need num >= 2, got num={self.num}")
        if self.num_seeds < 1 or self.batch_size < 1:
            raise ValueError(
                f"need num_seeds >= 1 and batch_size >= 1, got num_seeds={self.num_seeds}, batch_size={self.batch_size}"
            )
        if self.checkpoint is not None and (self.samples is not None or self.data is not None):
            other = "samples" if self.samples is not None else "data"
            raise ValueError(
                f"need checkpoint=... or {other}=..., got both; the real images of a checkpoint are those of its training"
            )
        if self.checkpoint is None and self.data is None:
            given = "samples=... needs the real images beside it" if self.samples is not None else "got none of them"
            raise ValueError(f"need checkpoint=PATH, or samples=PATH data=NAME, or data=NAME alone: {given}")
        if self.checkpoint is None:
            self._must_need_no_checkpoint()

    def _must_need_no_checkpoint(self) -> None:
        """Raises ValueError for a setting that would do nothing."""
        settings = (
            "num_seeds",
            "guidance",
            "weights",
            "ema_length",
            "ema_decay",
            "codec_name",
            "clip_name",
            "precision",
            "data_root",
        )
        changed = [key for key in settings if vars(self)[key] != type(self).__dataclass_fields__[key].default]
        if self.stages:
            changed.append("stages")
        if self.sampler != DDIM(num_steps=50, thresholding=Static()):
            changed.append("sampler")
        if changed:
            raise ValueError(f"{changed[0]}: only samples of a checkpoint have that; give checkpoint=..., or leave it out")

    def run(self) -> dict[str, object]:
        """Measures, prints a table, writes `receipt.json` and a picture; returns what a sweep compares."""
        begin = time.perf_counter()
        if self.features is None:
            raise UserError("features=none: a figure needs features; take classifier, inception, dinov2, clip or all")
        subject = self._subject()
        fabric = subject.start()
        seeds = () if subject.is_real else tuple(range(self.seed, self.seed + self.num_seeds))
        with withdrawn_on_complaint(self.run_dir):
            judges = self._judges(self.features, subject, fabric)
            shape = subject.data.shape
            size = (shape.channels, shape.resolution, shape.resolution)
            measured = [measure(subject.shares(seed), size, judges, subject.facts) for seed in seeds]
        figures = collect(judges, measured, subject.label)
        if isinstance(subject, CheckpointSamples):
            figures += noise(subject, judges[0], self.seed)
        found = [find(judges[0], each, with_neighbours=index == 0) for index, each in enumerate(measured)]
        protocol = self._protocol(subject, judges, seeds, measured)
        if fabric.is_global_zero:
            identity = {**subject.identity(), "content": [each.content for each in measured]}
            run = {**circumstances(fabric, time.perf_counter() - begin), **subject.costs()}
            receipt = Receipt(tuple(figures), protocol, identity, record(found, seeds), run)
            self._leave(receipt, found, measured, judges[0])
        return result(figures, subject, protocol)

    def _judges(self, features: Features, subject: ImagesUnderTest, fabric: Fabric) -> list[ReferenceStatistics]:
        """One for each kind of features. Raises UserError if real images, features or enough images are not to be had."""
        data = subject.open()
        splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint(), data.captions)
        chosen = {name: each for name, each in self.statistics.items() if each is not None}
        extractors = [each for each in extractors_of(features, splits) if any(one.applies(each) for one in chosen.values())]
        if not extractors:
            raise UserError(f"statistics: nothing to measure, none of {', '.join(chosen) or 'no statistics'} is for these features")
        return [ReferenceStatistics(each, chosen, splits, fabric.device, subject.num, self.batch_size) for each in extractors]

    def _subject(self) -> ImagesUnderTest:
        if self.checkpoint is not None:
            return CheckpointSamples(self._inference(self.checkpoint), self.data_root)
        assert self.data is not None
        devices = (self.accelerator, self.devices)
        if self.samples is None:
            return HeldOutImages(self.data, self.num, self.run_dir, devices)
        return SamplesInFiles(
            self.samples, open_samples(Path(self.samples)), self.data, self.num, self.batch_size, self.run_dir, devices
        )

    def _inference(self, checkpoint: str) -> Inference:
        return Inference(
            checkpoint=checkpoint,
            run_dir=self.run_dir,
            num=self.num or DEFAULT_NUM,
            seed=self.seed,
            weights=self.weights,
            ema_length=self.ema_length,
            ema_decay=self.ema_decay,
            codec_name=self.codec_name,
            clip_name=self.clip_name,
            batch_size=self.batch_size,
            accelerator=self.accelerator,
            devices=self.devices,
            precision=self.precision,
            sampler=self.sampler,
            guidance=self.guidance,
            stages=self.stages,
        )

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
        folder = Path(self.run_dir)
        print(shown_figures(receipt))
        print(f"receipt  {shown(write(receipt, folder))}")
        if found and (panel := draw_panel(found[0], measured[0], judge.training, folder)) is not None:
            print(f"picture  {shown(panel)}")


def collect(judges: Sequence[ReferenceStatistics], measured: Sequence[Measurement], label: str) -> list[Figure]:
    """Every figure with its values over seeds and its floor; those of the floor alone where nothing was generated."""
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
    """FID of what sampling starts from, of at most 1,000 images: the other end of the scale."""
    if "fid" not in judge.statistics:
        return []
    num, fabric = min(subject.num, MAX_NOISE), subject.fabric
    collector = judge.collector(num)
    for padded in subject.generation.batches(num, fabric.global_rank, fabric.world_size):
        indices = [index for index in padded if index < num]
        images = ImageNoise(seed, indices).draw(subject.generation.space)
        collector.add(indices, subject.loaded.model.codec.decode(images))
    value = judge.figures(collector.collected(), only="fid").get("fid")
    name = judge.extractor.name
    return [] if value is None else [Figure(protocol("fid", num, name, "noise"), "fid", name, (value,), None, "fid")]


def result(figures: Sequence[Figure], subject: ImagesUnderTest, protocol: Mapping[str, Any]) -> dict[str, object]:
    """What a sweep puts into its table and its picture: FID, if it was measured, with a hash of how."""
    found = {each.name: each.mean for each in figures}
    fid = next((each for each in figures if each.what == "fid" and not each.name.endswith("-noise")), None)
    if fid is None:
        return {**found, **subject.costs()}
    value = fid.mean if math.isfinite(fid.mean) else None
    settings = relevant(protocol, [(fid.what, fid.extractor, fid.statistic)])
    conditions = {key: value for key, value in settings.items() if key not in MAY_BE_SWEPT}
    merit = {"name": fid.name, "value": value, "floor": fid.floor, "protocol": digest(conditions)}
    return {**found, "fid": merit, **subject.costs(), "objective": math.inf if value is None else value}
