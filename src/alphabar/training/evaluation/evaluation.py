"""From a checkpoint, or from images, to figures."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.fabric import Fabric

from alphabar.diffusion.noise import ImageNoise
from alphabar.diffusion.samplers import Sampler
from alphabar.errors import UserError
from alphabar.training.data.datamodule import ImageDataModule
from alphabar.training.evaluation.files import open_samples
from alphabar.training.evaluation.findings import Findings, draw_panel, find
from alphabar.training.evaluation.judge import Judge
from alphabar.training.evaluation.measurement import Measurement, measure
from alphabar.training.evaluation.receipt import Figure, Receipt, circumstances, write
from alphabar.training.evaluation.subjects import OfCheckpoint, OfFiles, OfHeldOut, Subject
from alphabar.training.evaluation.table import shown_figures
from alphabar.training.inference import Inference, Precision
from alphabar.training.measuring import withdrawn_on_complaint
from alphabar.training.metrics import Features, Splits
from alphabar.training.metrics.measure import extractors_of
from alphabar.training.metrics.names import floor_protocol, protocol
from alphabar.training.metrics.statistics import Statistic
from alphabar.training.screen import shown

DEFAULT_NUM = 1000
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
        if self.checkpoint is None and self.num_seeds > 1:
            raise ValueError(f"num_seeds={self.num_seeds}: only samples of a checkpoint have seeds")

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
            measured = [measure(subject.shares(seed), size, judges) for seed in seeds]
        figures = collect(judges, measured, subject.label)
        if isinstance(subject, OfCheckpoint):
            figures += noise(subject, judges[0], self.seed)
        findings = find(judges[0], measured[0]) if measured else None
        if fabric.is_global_zero:
            identity = {**subject.identity(), "content": [each.content for each in measured]}
            run = {**circumstances(fabric, time.perf_counter() - begin), **subject.costs()}
            record = {} if findings is None else findings.record()
            receipt = Receipt(tuple(figures), self._protocol(subject, judges, seeds), identity, record, run)
            self._leave(receipt, findings, measured, judges[0])
        return result(figures, subject)

    def _judges(self, features: Features, subject: Subject, fabric: Fabric) -> list[Judge]:
        """One for each kind of features. Raises UserError if real images, features or enough images are not to be had."""
        data = subject.open()
        splits = Splits(data.train_set, data.held_out_set, data.source.fingerprint())
        chosen = {name: each for name, each in self.statistics.items() if each is not None}
        extractors = extractors_of(features, splits)
        return [Judge(each, chosen, splits, fabric.device, subject.num, self.batch_size) for each in extractors]

    def _subject(self) -> Subject:
        if self.checkpoint is not None:
            return OfCheckpoint(self._inference(self.checkpoint), self.data_root)
        assert self.data is not None
        devices = (self.accelerator, self.devices)
        if self.samples is None:
            return OfHeldOut(self.data, self.num, self.run_dir, devices)
        return OfFiles(self.samples, open_samples(Path(self.samples)), self.data, self.num, self.batch_size, self.run_dir, devices)

    def _inference(self, checkpoint: str) -> Inference:
        return Inference(
            checkpoint=checkpoint,
            run_dir=self.run_dir,
            num=self.num or DEFAULT_NUM,
            seed=self.seed,
            weights=self.weights,
            ema_length=self.ema_length,
            ema_decay=self.ema_decay,
            batch_size=self.batch_size,
            accelerator=self.accelerator,
            devices=self.devices,
            precision=self.precision,
            sampler=self.sampler,
        )

    def _protocol(self, subject: Subject, judges: Sequence[Judge], seeds: Sequence[int]) -> dict[str, Any]:
        first = judges[0]
        held_out = first.held_out
        floor = None if held_out is None else {"split": "held-out", "num": held_out.num, "content": held_out.content}
        return {
            "num": subject.num,
            "seeds": list(seeds),
            "reference": {"split": "training", "num": first.real.num, "content": first.real.content},
            "floor": floor,
            "extractors": {judge.extractor.name: judge.extractor.record for judge in judges},
            "statistics": {name: each for name, each in self.statistics.items() if each is not None},
            **subject.protocol(),
        }

    def _leave(self, receipt: Receipt, findings: Findings | None, measured: Sequence[Measurement], judge: Judge) -> None:
        folder = Path(self.run_dir)
        print(shown_figures(receipt))
        print(f"receipt  {shown(write(receipt, folder))}")
        if findings is not None and (panel := draw_panel(findings, measured[0].gallery, judge.training, folder)) is not None:
            print(f"picture  {shown(panel)}")


def collect(judges: Sequence[Judge], measured: Sequence[Measurement], label: str) -> list[Figure]:
    """Every figure with its values over seeds and its floor; those of the floor alone where nothing was generated."""
    figures = []
    for judge in judges:
        name, floor = judge.extractor.name, judge.floor()
        num_floor = 0 if judge.held_out is None else judge.held_out.num
        if not measured:
            figures += [Figure(floor_protocol(what, num_floor, name), what, name, (value,)) for what, value in floor.items()]
        whats = dict.fromkeys(what for each in measured for what in each.figures[name])
        for what in whats:
            values = tuple(each.figures[name].get(what, float("nan")) for each in measured)
            figures.append(Figure(protocol(what, judge.num, name, label), what, name, values, floor.get(what)))
    return figures


def noise(subject: OfCheckpoint, judge: Judge, seed: int) -> list[Figure]:
    """FID of what sampling starts from, of at most 1,000 images: the other end of the scale."""
    if "fid" not in judge.statistics:
        return []
    num, fabric = min(subject.num, MAX_NOISE), subject.fabric
    collector = judge.collector(num)
    for padded in subject.generation.batches(num, fabric.global_rank, fabric.world_size):
        indices = [index for index in padded if index < num]
        images = ImageNoise(seed, indices).draw(subject.generation.size)
        collector.add(indices, subject.loaded.module.codec.decode(images))
    value = judge.figures(collector.collected(), only="fid").get("fid")
    name = judge.extractor.name
    return [] if value is None else [Figure(protocol("fid", num, name, "noise"), "fid", name, (value,))]


def result(figures: Sequence[Figure], subject: Subject) -> dict[str, object]:
    """What a sweep puts into its table and its picture."""
    main = figures[0]
    fid = {"name": main.name, "value": main.mean, "floor": main.floor}
    return {**{each.name: each.mean for each in figures}, "fid": fid, **subject.costs(), "objective": main.mean}
