"""The parts of benchmarks/gpu.py: what is measured on a GPU, and how it is written."""

import gc
import io
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measuring.fid import write_random_weights
from measuring.gpu_sizes import OFF, Size
from measuring.ours import WITHOUT, OurTraining, our_network
from measuring.sampling import default_precision, trained_briefly
from measuring.table import work_as_text
from measuring.timing import GlobalSettings, used_device
from measuring.works import WORKS, Settings
from omegaconf import DictConfig

import alphabar
from alphabar.config.build import build
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.errors import UserError
from alphabar.library.composition import run_command
from alphabar.metrics import Splits
from alphabar.metrics.features.inception import InceptionFeatures
from alphabar.runs.text_table import format_table
from alphabar.sampling.command import Sampling
from alphabar.speed import BFLOAT16, autocast
from alphabar.training.callbacks.speed_figures import peak_memory
from alphabar.training.flops import peak_rate

Values = dict[str, Any]
Measure = Callable[[str, Callable[[], Any]], Any]
SHAPE = (3, 32)  # channels and resolution of CIFAR-10
CPU_ERROR = 1e-4  # of the norm of features, by which a GPU may differ from a CPU; TF32 differs by 1e-3


class Part(ABC):
    """A part of the benchmark. Its values are measured one by one, so that one that was cut off goes on."""

    @abstractmethod
    def run(self, size: Size, folder: Path, measure: Measure) -> None:
        """Measures the values: measure(key, function) calls the function unless there is a value already, and returns the value.

        folder: for what is needed on the way.
        """

    @abstractmethod
    def as_text(self, values: Values) -> str:
        """Returns the table of the values, of which some may be missing."""

    def faults(self, values: Values) -> list[str]:
        """Returns a line for each value that is not as it must be; by default none has to be anything."""
        return []


class Table(Part):
    """The pieces of work of benchmarks/speed.py that use a GPU."""

    def run(self, size: Size, folder: Path, measure: Measure) -> None:
        for name, (rounds, steps, batch_size) in size.works.items():
            settings = Settings(rounds, steps, batch_size, "wall", ("float32", "bfloat16"), folder)
            measure(name, lambda name=name, settings=settings: WORKS[name].measure(settings))

    def as_text(self, values: Values) -> str:
        return "\n".join(work_as_text(name, work) for name, work in values.items())


class Samples(Part):
    """Sampling with the CIFAR-10 U-Net after a step of training, by the command sample.py from its configuration to images.npz."""

    def run(self, size: Size, folder: Path, measure: Measure) -> None:
        data = data_words(folder, size.num_images, size.batch_sizes[0])
        checkpoint: list[Path] = []

        def draw(words: Sequence[str], first: int, num: int) -> Values:
            checkpoint.extend([] if checkpoint else [trained_briefly([*size.cifar10, "method=ddpm", *data], folder)])
            own = ["sampler=ddim", f"sampler.num_steps={size.evaluations}", f"num={num}", f"first={first}", "format=npz", "film=0"]
            with TemporaryDirectory(dir=folder) as run:
                begin = time.perf_counter()
                with silence():
                    run_command("sample", draw_samples, [f"checkpoint={checkpoint[0]}", *own, *words, f"hydra.run.dir={run}/run"])
                seconds = time.perf_counter() - begin
            return {"num": num, "evaluations": size.evaluations, "seconds": seconds}

        for name, words in size.sampling.items():
            for first in range(0, size.num, size.num_at_once):
                num = min(size.num_at_once, size.num - first)
                measure(f"{name}, from {first:,}", lambda words=words, first=first, num=num: draw(words, first, num))

    def as_text(self, values: Values) -> str:
        rows = []
        for name in dict.fromkeys(key.split(", from ")[0] for key in values):
            parts = [each for key, each in values.items() if key.split(", from ")[0] == name]
            num, seconds = (sum(each[key] for each in parts) for key in ("num", "seconds"))
            rows.append((name, f"{num:,}", f"{parts[0]['evaluations']}", f"{seconds:.1f}", f"{num / seconds:,.0f}"))
        head = ("speed", "samples", "evaluations", "s, a start without imports for each part of them", "images/s")
        return format_table([head, *rows])


@dataclass(frozen=True)
class Throughput(Part):
    """Training steps of the CIFAR-10 U-Net as train.py takes them by default, but for what is said, against the batch size."""

    compile: bool
    channels_last: bool = True

    def run(self, size: Size, folder: Path, measure: Measure) -> None:
        for batch_size in size.batch_sizes:
            measure(f"{batch_size}", lambda batch_size=batch_size: self._measured_if_it_fits(size, folder, batch_size))

    def _measured_if_it_fits(self, size: Size, folder: Path, batch_size: int) -> Values:
        """Returns `_measured`, or no value where the memory of the GPU does not suffice."""
        settings = GlobalSettings()
        try:
            return self._measured(size, folder, batch_size)
        except UserError as error:  # which a run makes of it
            if not isinstance(error.__cause__, torch.OutOfMemoryError):
                raise
            return {}
        finally:
            settings.restore()

    def _measured(self, size: Size, folder: Path, batch_size: int) -> Values:
        speed = [f"speed.{key}={str(value).lower()}" for key, value in vars(self).items()]
        words = [*size.cifar10, *data_words(folder, size.num_images, batch_size), *speed]
        precision, device = default_precision(), used_device()
        if self.compile:
            torch.compiler.reset()  # what is compiled for other batch sizes, since torch keeps a limited number
        ours = OurTraining("alphabar", precision, words, folder, batch_size, "wall", our_network(words, *SHAPE))
        if device.type == "cuda":
            gc.collect()  # the run before, whose parts refer to each other
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        times = ours.times(size.steps)
        seconds = statistics.fmean(times)
        rate = batch_size / seconds
        peak = peak_rate(device, getattr(torch, precision))
        mfu = rate * (ours.gflop or 0.0) * 1e9 / peak.flops
        return {"ms": 1e3 * seconds, "images_per_second": rate, "mfu": mfu, "peak": str(peak), "memory_mb": peak_memory(device)}

    def as_text(self, values: Values) -> str:
        rows = []
        for batch_size, each in values.items():
            if not each:
                rows.append((batch_size, "out of memory", "", "", ""))
                continue
            rate, memory = f"{each['images_per_second']:,.0f}", f"{each['memory_mb']:,.0f}"
            rows.append((batch_size, f"{each['ms']:,.1f}", rate, f"{each['mfu']:.0%} of {each['peak']}", memory))
        return format_table([("images", "ms", "images/s", "MFU", "peak memory, MB"), *rows])


class Correctness(Part):
    """Whether the loss of speed=auto differs from that of speed=off by no more than another seed does."""

    def run(self, size: Size, folder: Path, measure: Measure) -> None:
        data = data_words(folder, size.num_images, size.loss_batch)
        length = [f"trainer.max_steps={size.loss_steps}", f"trainer.log_every_n_steps={max(1, size.loss_steps // 6)}"]
        rates = ["optimizer.lr=1e-3", f"lr_scheduler.warmup_steps={min(50, size.loss_steps)}"]
        own = [*size.small, *data, *rates, *length, "logger=csv", "report=false", "callbacks.curves=null"]

        def losses(words: Sequence[str]) -> list[float]:
            settings = GlobalSettings()
            allow_tf32 = "speed=off" not in words  # torch lets convolutions use it by default
            convolutions = torch.backends.cudnn.flags(enabled=True, allow_tf32=allow_tf32)
            with TemporaryDirectory(dir=folder) as run, silence(), convolutions:
                rows = alphabar.train([*own, *words, f"hydra.run.dir={run}/run"]).metrics
            settings.restore()
            return [row["train/loss"] for row in rows if "train/loss" in row]

        for name, words in size.variants.items():
            for seed in size.seeds:
                measure(f"{name}, seed {seed}", lambda words=words, seed=seed: losses([*words, f"seed={seed}"]))

    def as_text(self, values: Values) -> str:
        rows = [(name, *(f"{loss:.4f}" for loss in curve)) for name, curve in values.items()]
        lines = [format_table([("loss", *(f"part {number + 1}" for number in range(len(rows[0]) - 1))), *rows])] if rows else []
        for name, share in self._shares(values).items():
            lines.append(f"  {name}: the mean over seeds is off that of {OFF} by {share:.2g} of the range of its seeds at most")
        return "\n".join(lines)

    def faults(self, values: Values) -> list[str]:
        outside = [name for name, share in self._shares(values).items() if share > 1]
        return [f"correctness: the loss of {name} is outside the range of the seeds of {OFF}" for name in outside]

    @staticmethod
    def _shares(values: Values) -> dict[str, float]:
        """Returns, of each variant, how far it is from `speed=off` at most, over the range of the seeds of that."""
        curves: dict[str, list[list[float]]] = {}
        for key, curve in values.items():
            curves.setdefault(key.rpartition(", seed ")[0], []).append(curve)
        exact = curves.pop(OFF, [])
        by_part = list(zip(*exact, strict=True))
        complete = {name: zip(*found, strict=True) for name, found in curves.items() if len(found) == len(exact)}
        return {name: max(map(share_of_range, found, by_part)) for name, found in complete.items()}


class Features(Part):
    """Whether the features of FID are float32 whatever surrounds them: equal to the bit under autocast and TF32, and a CPU's."""

    def run(self, size: Size, folder: Path, measure: Measure) -> None:
        measure("features", lambda: self._compared(size, folder))

    def _compared(self, size: Size, folder: Path) -> Values:
        weights, device, settings = folder / "inception.pth", used_device(), GlobalSettings()
        write_random_weights(weights)
        images = torch.randint(0, 256, (size.num_features, *SHAPE[:1], SHAPE[1], SHAPE[1]), dtype=torch.uint8)
        splits = Splits(ResidentImages(images, None), ResidentImages(images, None), "random")
        (extractor,) = InceptionFeatures(str(weights), str(folder)).extractors(splits)
        few = images[:16]
        expected = extractor(few)
        images, extractor = images.to(device), extractor.to(device)
        plain = extractor(images)
        torch.set_float32_matmul_precision("high")
        with autocast(device, BFLOAT16):
            surrounded = extractor(images)
        settings.restore()
        error = (plain[:16].cpu() - expected).norm(dim=1) / expected.norm(dim=1)
        return {"num": len(images), "autocast": (surrounded - plain).abs().max().item(), "cpu": error.max().item()}

    def as_text(self, values: Values) -> str:
        return "\n".join(
            f"  features of {each['num']} images: under autocast and TF32 they differ by {each['autocast']:.1g} at most, "
            f"from those of the CPU by {each['cpu']:.1g} of their norm"
            for each in values.values()
        )

    def faults(self, values: Values) -> list[str]:
        found = [each for each in values.values() if not (each["autocast"] == 0 and each["cpu"] <= CPU_ERROR)]
        return ["features: those of FID depend on what surrounds them, or are not float32"] if found else []


def share_of_range(found: Sequence[float], exact: Sequence[float]) -> float:
    """Returns the distance of the means over the range of the second; infinity where a value is not finite."""
    difference, spread = abs(statistics.fmean(found) - statistics.fmean(exact)), max(exact) - min(exact)
    return difference / max(spread, 1e-12) if math.isfinite(difference) else math.inf


def data_words(folder: Path, num: int, batch_size: int) -> list[str]:
    """Returns the overrides that choose images of 8x8 squares of random colours as data, which a network can learn."""
    path = folder / f"squares_{num}.npy"
    if not path.exists():
        corners = np.random.default_rng(0).integers(256, size=(num, 4, 4, SHAPE[0]), dtype=np.uint8)
        np.save(path, corners.repeat(SHAPE[1] // 4, axis=1).repeat(SHAPE[1] // 4, axis=2))
    return [*WITHOUT, "data=arrays", f"data.path={path}", f"data.batch_size={batch_size}"]


def draw_samples(cfg: DictConfig) -> dict[str, object]:
    """Draws as sample.py does."""
    task = build(cfg.task, "task")
    assert isinstance(task, Sampling)
    return task.run()


@contextmanager
def silence() -> Iterator[None]:
    """Prints nothing inside the context."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


PARTS: dict[str, Part] = {
    "samples": Samples(),
    "training": Throughput(compile=False),
    "compiled": Throughput(compile=True),
    "correctness": Correctness(),
    "features": Features(),
    "table": Table(),
    "channels_first": Throughput(compile=False, channels_last=False),
}
