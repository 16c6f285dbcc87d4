"""Data pipelines: batches of RGB images, shuffled, mirrored at random, as float32 in [-1, 1], made by this process alone."""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from measuring.missing import needed
from measuring.timing import Clock, Loop
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from alphabar.data.sources.prepared import Prepared
from alphabar.models.codecs.pixels import Pixels

CPU = torch.device("cpu")


def write_images(folder: Path, num: int, resolution: int) -> None:
    """Writes PNG files of smooth noise in two classes."""
    generator = np.random.default_rng(0)
    for number in range(num):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = folder / f"{number % 2}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((resolution, resolution), Image.Resampling.BICUBIC).save(path)


class Pipeline(Loop):
    """A pipeline whose piece of work is a batch, the next of those that it makes without end."""

    precision = "float32"

    def __init__(self, label: str, batches: Iterator[Tensor], batch_size: int, clock: Clock, remark: str = "") -> None:
        super().__init__(clock, CPU)
        self.label, self.batches, self.images, self.difference = label, batches, batch_size, remark

    @property
    def remark(self) -> str:
        return self.difference

    def act(self) -> None:
        next(self.batches)


class CachedImages(Dataset[np.ndarray]):
    """A dataset that decodes each image once and mirrors it when it is asked for, as EDM's `ImageFolderDataset` with its cache."""

    def __init__(self, folder: ImageFolder) -> None:
        self.decoded = [np.asarray(folder.loader(path)).transpose(2, 0, 1) for path, _ in folder.samples]

    def __len__(self) -> int:
        return len(self.decoded)

    def __getitem__(self, index: int) -> np.ndarray:
        image = self.decoded[index]
        return (image[:, :, ::-1] if np.random.rand() < 0.5 else image).copy()


def ours(folder: Path, batch_size: int, resident: bool) -> Iterator[Tensor]:
    """Yields the batches of `python train.py data=prepared`, as its codec gives them to the network, without end.

    resident: whether the images are in memory, as they are by default if they are as few, or read from the file at every batch.
    """
    data, codec = Prepared(str(folder), batch_size=batch_size, flip=True, resident=None if resident else False), Pixels()
    data.prepare_data()
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, use_distributed_sampler=False)
    return (codec(batch) for batch in chain.from_iterable(repeat(data.train_dataloader())))


def image_folder(folder: Path, batch_size: int) -> Iterator[Tensor]:
    """Yields the batches of torchvision's usual recipe, without end."""
    steps = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    loader = DataLoader(ImageFolder(str(folder), transforms.Compose(steps)), batch_size, shuffle=True, drop_last=True)
    return (images for images, _ in chain.from_iterable(repeat(loader)))


def cached_images(folder: Path, batch_size: int) -> Iterator[Tensor]:
    """Yields the batches of EDM's training loop, without end."""
    loader = DataLoader(CachedImages(ImageFolder(str(folder))), batch_size, shuffle=True, drop_last=True)
    return (images.to(torch.float32) / 127.5 - 1 for images in chain.from_iterable(repeat(loader)))


def hugging_face(files: Sequence[str], batch_size: int, resolution: int) -> Iterator[Tensor]:
    """Yields the batches of train_unconditional.py of diffusers, without end."""
    needed("datasets", "datasets")
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
    dataset = datasets.Dataset.from_dict({"image": list(files)}).cast_column("image", datasets.Image())
    dataset.set_transform(lambda items: {"input": [steps(image.convert("RGB")) for image in items["image"]]})
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True)  # type: ignore[arg-type]
    return (batch["input"] for batch in chain.from_iterable(repeat(loader)))
