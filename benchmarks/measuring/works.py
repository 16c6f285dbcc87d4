"""The pieces of work that benchmarks/speed.py measures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring.fid import distances, extractors
from measuring.missing import installed, needed
from measuring.ours import BareLoop, OurTraining, data_words, our_network
from measuring.peers import PEERS, CompiledDiffusers, TrainingTask
from measuring.pipelines import Pipeline, cached_images, hugging_face, image_folder, ours, write_images
from measuring.roofline import kernels
from measuring.sampling import TRAINER_PRECISIONS, default_precision, samplers
from measuring.steps import BareDDPM, BareDPMpp2M, BareEuler, BareFormulas, BareHeun, DiffusersSampler, OurSampler
from measuring.table import peak_rows, rows_of, spread
from measuring.timing import CLOCKS, Clock, Contestant, Measured, take_turns, used_device

from alphabar.data.preparation import Preparation
from alphabar.data.sources.folder import Folder
from alphabar.diffusion.samplers import Sampler
from alphabar.diffusion.samplers.ddim import DDIM
from alphabar.diffusion.samplers.ddpm import DDPM
from alphabar.diffusion.samplers.dpmpp_2m import DPMpp2M
from alphabar.diffusion.samplers.euler import Euler
from alphabar.diffusion.samplers.heun import Heun
from alphabar.metrics.extractor import in_float32
from alphabar.models.networks.unet import UNet


@dataclass(frozen=True)
class Settings:
    """How the work is measured.

    rounds: in each of which all contestants take their turn. steps, batch_size: None: as the work has them.
    folder: for data and runs, which are removed in the end.
    """

    rounds: int
    steps: int | None
    batch_size: int | None
    clock: str
    precisions: tuple[str, ...]
    folder: Path


class Work(ABC):
    """A piece of work that several contestants do."""

    @abstractmethod
    def measure(self, settings: Settings) -> dict[str, Any]:
        """Returns what goes into the JSON file: title, rows, rates of the machine, and the peers that are not installed."""


@dataclass(frozen=True)
class TrainingWork(Work):
    """Training steps of a network: ours, as train.py takes them, beside the loops of the peers, in each precision.

    words: overrides that choose the network. size: channels and resolution. steps: of each contestant in a round.
    compiled: whether diffusers takes part in bfloat16 and compiled, too, if there is a GPU: it takes about a minute.
    """

    words: tuple[str, ...]
    size: tuple[int, int]
    batch_size: int
    steps: int
    compiled: bool = False

    def measure(self, settings: Settings) -> dict[str, Any]:
        batch_size, device = settings.batch_size or self.batch_size, used_device()
        words = [*self.words, *data_words(settings.folder, *self.size, batch_size)]
        network = our_network(words, *self.size)
        task = TrainingTask(network, batch_size, CLOCKS[settings.clock], device)
        makers = [partial(make, task, precision) for make in PEERS for precision in settings.precisions]
        if self.compiled and device.type == "cuda" and "bfloat16" in settings.precisions:
            makers.append(partial(CompiledDiffusers, task, "bfloat16"))
        contestants, missing = installed([*makers, *self._ours(settings, words, network, batch_size)])
        title = f"a training step, {self.size[1]}x{self.size[1]}x{self.size[0]}, batch {batch_size}"
        return beside_peaks(title, contestants, missing, settings, self.steps)

    def _ours(self, settings: Settings, words: list[str], network: UNet, batch_size: int) -> list[Callable[[], Contestant]]:
        """Returns what makes our contestants: as by default, in the other precision, and with speed=off."""
        default = default_precision()
        variants = {"": ([], default), ", speed=off": (["speed=off"], "float32")}
        for precision in settings.precisions:
            if precision != default:
                word = f"speed.precision={TRAINER_PRECISIONS[precision]}"
                variants[f", {word}"] = ([word], precision)
        return [
            partial(OurTraining, f"alphabar{name}", precision, [*words, *own], settings.folder, batch_size, settings.clock, network)
            for name, (own, precision) in variants.items()
        ]


@dataclass(frozen=True)
class SamplingWork(Work):
    """Sampling of `batch_size` images by DDIM with `num_steps` evaluations of one network, decoded.

    words: overrides that choose the network. size: channels and resolution.
    """

    words: tuple[str, ...]
    size: tuple[int, int]
    batch_size: int
    num_steps: int

    def measure(self, settings: Settings) -> dict[str, Any]:
        num = settings.batch_size or self.batch_size
        words = [*self.words, "method=ddpm", *data_words(settings.folder, *self.size, num)]
        makers = samplers(words, self.size, num, self.num_steps, settings.precisions, settings.folder, CLOCKS[settings.clock])
        contestants, missing = installed(makers)
        title = f"sampling, {num} images {self.size[1]}x{self.size[1]}x{self.size[0]}, DDIM, {self.num_steps} steps"
        return beside_peaks(title, contestants, missing, settings, 1)


def beside_peaks(
    title: str, contestants: Sequence[Contestant], missing: list[str], settings: Settings, steps: int
) -> dict[str, Any]:
    """Returns the result of contestants that took turns with the kernels of the machine."""
    peaks = kernels(settings.precisions, CLOCKS[settings.clock], used_device(), settings.steps)
    measured, num = take_turns([*contestants, *peaks], settings.rounds, settings.steps or steps), len(contestants)
    return result(title, rows_of(measured[:num], measured[num:]), peak_rows(measured[num:]), missing)


@dataclass(frozen=True)
class OverheadWork(Work):
    """What the whole recipe (Lightning, log, bar, callbacks) adds to a step of a bare loop on the same network, in float32.

    words: overrides that choose the network. batch_size: of images of 8x8. steps: of each in a round, logged ones among them.
    """

    words: tuple[str, ...]
    batch_size: int
    steps: int

    def measure(self, settings: Settings) -> dict[str, Any]:
        batch_size = settings.batch_size or self.batch_size
        words = [*self.words, "recipe=digits", "speed=off", *data_words(settings.folder, 1, 8, batch_size)]
        bare = BareLoop(words, (1, 8), settings.clock)
        ours = OurTraining("alphabar (train.py)", "float32", words, settings.folder, batch_size, settings.clock)
        measured = take_turns([bare, ours], settings.rounds, settings.steps or self.steps)
        title = f"the whole recipe over a bare loop, 8x8, batch {batch_size}"
        return result(title, rows_of(measured, []), [], [], [f"  added to a step, in the mean: {added(measured)}"])


@dataclass(frozen=True)
class PipelineWork(Work):
    """Batches of images from PNG files, from their order to float32 in [-1, 1], without worker processes.

    num_batches: how many the files make up. steps: how many each pipeline makes in a round.
    """

    resolution: int
    batch_size: int
    num_batches: int
    steps: int

    def measure(self, settings: Settings) -> dict[str, Any]:
        batch_size, clock = settings.batch_size or self.batch_size, CLOCKS[settings.clock]
        photos, ready = settings.folder / "photos", settings.folder / "ready"
        write_images(photos, self.num_batches * batch_size, self.resolution)
        Preparation(Folder(str(photos), self.resolution, held_out=0.0), str(ready)).run()
        files = sorted(map(str, photos.glob("*/*.png")))
        pipelines = {
            "torchvision ImageFolder": lambda: image_folder(photos, batch_size),
            "EDM's dataset with decoded images in memory": lambda: cached_images(photos, batch_size),
            "alphabar, prepared folder, read at every batch": lambda: ours(ready, batch_size, resident=False),
            "alphabar, images in memory": lambda: ours(ready, batch_size, resident=True),
            "datasets with the transforms of diffusers": lambda: hugging_face(files, batch_size, self.resolution),
        }
        contestants, missing = installed(
            lambda label=label, make=make: Pipeline(label, make(), batch_size, clock) for label, make in pipelines.items()
        )
        measured = take_turns(contestants, settings.rounds, settings.steps or self.steps)
        title = f"batches of {batch_size} images 3x{self.resolution}x{self.resolution} from PNG files, without workers, on the CPU"
        return result(title, rows_of(measured, []), [], missing)


@dataclass(frozen=True)
class SamplerWork(Work):
    """Steps of a sampler on images 3x32x32 whose network is a constant, and what ours adds to a loop of bare formulas.

    peer: the scheduler of diffusers with the same formulas, with these arguments. steps: trajectories of each in a round.
    """

    sampler: Sampler
    bare: type[BareFormulas]
    peer: str
    arguments: Mapping[str, object]
    batch_size: int
    steps: int

    def measure(self, settings: Settings) -> dict[str, Any]:
        batch_size, steps = settings.batch_size or self.batch_size, settings.steps or self.steps
        contestants, single = (self._contestants(size, CLOCKS[settings.clock]) for size in ((batch_size, 3, 32, 32), (1, 1, 1, 1)))
        peers, missing = installed([lambda: self._peer(contestants[0])])
        measured, of_one = (take_turns(each, settings.rounds, steps) for each in ([*contestants, *peers], single))
        name = type(self.sampler).__name__
        notes = [f"  added to a step, in the mean: {added(measured)}; to one of a single number: {added(of_one)}"]
        return result(
            f"a step of {name} of {batch_size} images 3x32x32 on the CPU, network constant",
            rows_of(measured, []),
            [],
            missing,
            notes,
        )

    def _contestants(self, size: tuple[int, ...], clock: Clock) -> list[Contestant]:
        x_T, eps = torch.randn(size), torch.randn(size)
        return [make(x_T, eps, self.sampler, clock) for make in (self.bare, OurSampler)]

    def _peer(self, bare: Contestant) -> Contestant:
        needed("diffusers", "diffusers")
        import diffusers

        assert isinstance(bare, BareFormulas)
        make = partial(getattr(diffusers, self.peer), beta_schedule="linear", timestep_spacing="trailing", **self.arguments)
        return DiffusersSampler(bare.x_T, bare.eps, self.sampler, bare.clock, make)


def added(measured: Sequence[Measured]) -> str:
    """Returns how many ms a piece of work of the second contestant takes longer than one of the first, in the mean of a round.

    Steps that log and callbacks that act now and then have their share in a mean, as they have none in a median.
    """
    pairs = zip(measured[1].means, measured[0].means, strict=True)
    middle, low, high = spread([1e3 * (whole - alone) for whole, alone in pairs])
    return f"{middle:.3g} ms ({low:.3g} to {high:.3g})"


@dataclass(frozen=True)
class FeaturesWork(Work):
    """Inception features of images 3x32x32, which FID is measured in: always in float32, without TF32."""

    batch_size: int

    def measure(self, settings: Settings) -> dict[str, Any]:
        batch_size, clock = settings.batch_size or self.batch_size, CLOCKS[settings.clock]
        contestants = extractors(batch_size, settings.folder, clock)
        peaks, num = kernels(("float32",), clock, used_device(), settings.steps), len(contestants)
        with in_float32(used_device()):  # the others and the kernels, too, which a GPU computes in TF32 otherwise
            measured = take_turns([*contestants, *peaks], settings.rounds, settings.steps or 1)
        title = f"Inception features of images 32x32x3, batch {batch_size}"
        return result(title, rows_of(measured[:num], measured[num:]), peak_rows(measured[num:]), [])


@dataclass(frozen=True)
class DistanceWork(Work):
    """The Frechet distance of two normal distributions of features, on the CPU and in float64; a step is a distance."""

    num_features: int

    def measure(self, settings: Settings) -> dict[str, Any]:
        measured = take_turns(distances(self.num_features, CLOCKS[settings.clock]), settings.rounds, settings.steps or 1)
        return result(f"a Frechet distance in {self.num_features:,} features, on the CPU", rows_of(measured, []), [], [])


def result(title: str, rows: list[Any], peaks: list[Any], missing: list[str], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the result of a piece of work, as `Work.measure` does."""
    return {"title": title, "rows": rows, "peaks": peaks, "missing": missing, "notes": list(notes)}


SMALL = ("network=unet_small", "network.base_channels=32")
WORKS: dict[str, Work] = {
    "train-digits": TrainingWork(("network=unet_tiny",), (1, 8), batch_size=64, steps=20),
    "train-small": TrainingWork(SMALL, (1, 32), batch_size=16, steps=8),
    "train-cifar10": TrainingWork(("network=unet_cifar10", "network.dropout=0"), (3, 32), batch_size=8, steps=3, compiled=True),
    "sample": SamplingWork(SMALL, (1, 32), batch_size=16, num_steps=10),
    "overhead": OverheadWork(("network=unet_tiny",), batch_size=32, steps=60),
    "overhead-tiny": OverheadWork(("network=simple_unet",), batch_size=2, steps=400),
    "data": PipelineWork(32, batch_size=128, num_batches=150, steps=40),
    "sampler-ddim": SamplerWork(DDIM(), BareEuler, "DDIMScheduler", {}, batch_size=64, steps=5),
    "sampler-dpmpp": SamplerWork(DPMpp2M(), BareDPMpp2M, "DPMSolverMultistepScheduler", {}, batch_size=64, steps=5),
    "sampler-euler": SamplerWork(Euler(), BareEuler, "EulerDiscreteScheduler", {}, batch_size=64, steps=5),
    "sampler-heun": SamplerWork(Heun(), BareHeun, "HeunDiscreteScheduler", {"clip_sample": True}, batch_size=64, steps=5),
    "sampler-ddpm": SamplerWork(DDPM(), BareDDPM, "DDPMScheduler", {}, batch_size=64, steps=5),
    "fid-features": FeaturesWork(batch_size=64),
    "fid-distance": DistanceWork(num_features=2048),
}
