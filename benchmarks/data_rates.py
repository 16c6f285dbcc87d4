"""How many images a second reach the network: batches of RGB images, shuffled, mirrored at random, as float32 in [-1, 1].

    python benchmarks/data_rates.py                                    32x32 PNG files, batch 128
    python benchmarks/data_rates.py --resolution 64 --threads 1

Every pipeline reads the same PNG files, without worker processes: ours from memory and from the folder that prepare.py makes, which
is mapped into memory; torchvision's ImageFolder with transforms; Hugging Face `datasets` with the transforms of diffusers'
train_unconditional.py, if they are installed; a dataset that keeps decoded arrays, as EDM's. They take turns in one process.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from alphabar.cli.console import configure_logging
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.preparation import Preparation
from alphabar.data.sources.folder import Folder
from alphabar.data.sources.prepared import Prepared
from alphabar.models.codecs.pixels import Pixels
from alphabar.runs.text_table import format_table

OURS, MAPPED, IMAGE_FOLDER = "alphabar, in memory", "alphabar, prepared folder", "torchvision ImageFolder"
EDM, HUGGING_FACE = "EDM's cached dataset", "datasets + diffusers' transforms"


def write_images(folder: Path, num: int, resolution: int) -> None:
    """Writes PNG files of smooth noise in two classes."""
    generator = np.random.default_rng(0)
    for number in range(num):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = folder / f"{number % 2}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((resolution, resolution), Image.Resampling.BICUBIC).save(path)


class CachedImages(Dataset[np.ndarray]):
    """A dataset that decodes each image once and mirrors it when it is asked for, as EDM's `ImageFolderDataset` with its cache."""

    def __init__(self, folder: ImageFolder) -> None:
        self.images = [np.asarray(folder.loader(path)).transpose(2, 0, 1) for path, _ in folder.samples]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        image = self.images[index]
        return (image[:, :, ::-1] if np.random.rand() < 0.5 else image).copy()


def ours(data: ImageDataModule) -> Iterator[Tensor]:
    """Yields the batches of a run with these data, as its codec gives them to the network, without end."""
    data.prepare_data()
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, use_distributed_sampler=False)
    loader, codec = data.train_dataloader(), Pixels()
    return (codec(batch) for batch in chain.from_iterable(repeat(loader)))


def image_folder(folder: Path, batch_size: int) -> Iterator[Tensor]:
    steps = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    dataset = ImageFolder(str(folder), transforms.Compose(steps))
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True)
    return (images for images, _ in chain.from_iterable(repeat(loader)))


def cached_dataset(folder: Path, batch_size: int) -> Iterator[Tensor]:
    loader = DataLoader(CachedImages(ImageFolder(str(folder))), batch_size, shuffle=True, drop_last=True)
    return (images.to(torch.float32) / 127.5 - 1 for images in chain.from_iterable(repeat(loader)))


def hugging_face(folder: Path, batch_size: int, resolution: int) -> Iterator[Tensor]:
    import datasets

    steps = transforms.Compose(
        [
            transforms.Resize(resolution, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(resolution),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    files = datasets.Dataset.from_dict({"image": [str(path) for path in sorted(folder.glob("*/*.png"))]})
    dataset = files.cast_column("image", datasets.Image())
    dataset.set_transform(lambda items: {"input": [steps(image.convert("RGB")) for image in items["image"]]})
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True)  # type: ignore[arg-type]
    return (batch["input"] for batch in chain.from_iterable(repeat(loader)))


def measure(
    num: int = 20_000, resolution: int = 32, batch_size: int = 128, rounds: int = 5, seconds: float = 1.0
) -> dict[str, list[float]]:
    """Returns the images per second of each pipeline, by its name, in each round; in a round, all take turns.

    num: how many images there are. seconds: for how long a pipeline is measured in a round, after a batch that does not count.
    """
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary) / "photos"
        write_images(photos, num, resolution)
        loading: dict[str, int | bool] = {"batch_size": batch_size, "flip": True}
        Preparation(Folder(str(photos), resolution, held_out=0.0), str(Path(temporary) / "ready")).run()
        pipelines: dict[str, Callable[[], Iterator[Tensor]]] = {
            OURS: lambda: ours(Prepared(f"{temporary}/ready", **loading)),
            MAPPED: lambda: ours(Prepared(f"{temporary}/ready", resident=False, **loading)),
            IMAGE_FOLDER: lambda: image_folder(photos, batch_size),
            EDM: lambda: cached_dataset(photos, batch_size),
        }
        if find_spec("datasets") is not None:
            pipelines[HUGGING_FACE] = lambda: hugging_face(photos, batch_size, resolution)
        batches = {name: make() for name, make in pipelines.items()}
        found: dict[str, list[float]] = {name: [] for name in batches}
        for _ in range(rounds):
            for name, each in batches.items():
                found[name].append(rate(each, seconds))
        return found


def rate(batches: Iterator[Tensor], seconds: float) -> float:
    """Returns the images per second of a pipeline."""
    next(batches)
    begin, num = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds or not num:
        num += len(next(batches))
    return num / passed


def table(rates: Mapping[str, list[float]]) -> str:
    """Returns the medians with their range, and the medians of the ratios to ImageFolder in the same round."""
    rows = [["pipeline", "images/s", "from", "to", "x ImageFolder"]]
    for name, found in rates.items():
        ratio = statistics.median(one / other for one, other in zip(found, rates[IMAGE_FOLDER], strict=True))
        rows.append([name, f"{statistics.median(found):,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}", f"{ratio:.1f}"])
    return format_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=20_000, help="images")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each pipeline in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    configure_logging()
    torch.set_num_threads(options.threads)
    size = f"{options.num:,} PNG files 3x{options.resolution}x{options.resolution}, batch {options.batch_size}"
    print(f"{size}, no workers, {options.threads} threads, torch {torch.__version__}\n")
    print(table(measure(options.num, options.resolution, options.batch_size, options.rounds, options.seconds)))


if __name__ == "__main__":
    main()
