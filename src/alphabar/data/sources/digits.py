"""The embedded data set: scikit-learn's 1,797 scanned digits, 8x8, grey, without a download."""

import hashlib
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.image_sets.resident import ResidentImages
from alphabar.data.loading.options import Loading

FloatArray = NDArray[np.float64]
NUM_DIGITS = 1797
SPLIT_SEED = 0  # the split belongs to the data: every run of every seed has the same


class DigitsSource(ImageSource):
    """Optical digits (Alpaydin & Kaynak 1998): grey levels 0..16, here 0..255.

    num_held_out: of the 1,797 images. The default of 1000 lets FID and its floor be computed at n = 1000.
    """

    def __init__(self, num_held_out: int = 1000) -> None:
        if not 1 <= num_held_out < NUM_DIGITS:
            raise ValueError(f"need 1 <= num_held_out < {NUM_DIGITS}, got {num_held_out}")
        self.num_held_out = num_held_out

    @property
    def shape(self) -> Shape:
        return Shape(channels=1, height=8, width=8)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def prepare(self) -> None:
        """Does nothing: the images are part of scikit-learn."""

    def train(self) -> ImageSet:
        pixels, labels = self._images_and_labels
        return ResidentImages(pixels[self.num_held_out :], labels[self.num_held_out :])

    def held_out(self) -> ImageSet:
        pixels, labels = self._images_and_labels
        return ResidentImages(pixels[: self.num_held_out], labels[: self.num_held_out])

    def fingerprint(self) -> str:
        pixels, labels = self._images_and_labels
        content = pixels.numpy().tobytes() + labels.numpy().tobytes() + str(self.num_held_out).encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    @cached_property
    def _images_and_labels(self) -> tuple[Tensor, Tensor]:
        images, labels = scanned_digits()
        order = np.random.RandomState(SPLIT_SEED).permutation(NUM_DIGITS)  # the one numpy stream that never changes
        pixels = np.rint(images[order] * (255 / 16)).astype(np.uint8).reshape(NUM_DIGITS, 1, 8, 8)
        return torch.from_numpy(pixels), torch.from_numpy(labels[order].astype(np.int64))


def scanned_digits() -> tuple[FloatArray, FloatArray]:
    """Returns grey levels, float64 [1797, 64] in 0..16, and labels, float64 [1797], as scikit-learn's `load_digits` does.

    The file is read directly: scikit-learn itself takes longer to import than all else that a run on digits needs beside torch.
    """
    spec = find_spec("sklearn")
    assert spec is not None
    table = np.loadtxt(Path(str(spec.origin)).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1], table[:, -1]


class Digits(ImageDataModule):
    """The data module of `DigitsSource`."""

    def __init__(self, *, num_held_out: int = 1000, **loading: Unpack[Loading]) -> None:
        super().__init__(DigitsSource(num_held_out), **loading)
