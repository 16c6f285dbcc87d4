"""A schedule, a sampler, a network, a conditioner and a dataset as a contributor adds them: a file of Python and a file of YAML each."""

import shutil
from pathlib import Path

import documents
import runs

FILES = {
    "src/alphabar/diffusion/schedules/quadratic.py": '''
"""Betas that grow with the square of the step."""

import torch

from alphabar.diffusion.schedules.discrete import DiscreteSchedule


class QuadraticSchedule(DiscreteSchedule):
    """A table of betas, beta_max * linspace(0.01, 1)^2."""

    def __init__(self, num_steps: int = 1000, beta_max: float = 0.03) -> None:
        super().__init__(beta_max * torch.linspace(0.01, 1, num_steps, dtype=torch.float64) ** 2)
''',
    "conf/schedule/quadratic.yaml": """
# Quadratic betas
_target_: alphabar.diffusion.schedules.quadratic.QuadraticSchedule
num_steps: 1000
beta_max: 0.03
""",
    "src/alphabar/diffusion/samplers/plain_euler.py": '''
"""Euler's method with nothing else."""

from dataclasses import dataclass

from torch import Tensor

from alphabar.diffusion.samplers import Run, Sampler


@dataclass(frozen=True, kw_only=True)
class PlainEuler(Sampler):
    """Euler's method: dx = x_hat dalpha + eps_hat dsigma, by first-order steps."""

    num_steps: int | None = 50

    @property
    def is_reversible(self) -> bool:
        return True

    def step(self, run: Run, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return run.move(run.predict(x_t, t), s)
''',
    "conf/sampler/plain_euler.yaml": """
# Euler's method with nothing else
_target_: alphabar.diffusion.samplers.plain_euler.PlainEuler
num_steps: 50
timesteps: ${timesteps}
thresholding: ${thresholding}
""",
    "src/alphabar/models/networks/two_convolutions.py": '''
"""The least network."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from alphabar.models.networks import Network, ConditionReader


class TwoConvolutions(Network):
    """Two convolutions, the second of which starts at zero, with the noise level as a channel."""

    def __init__(self, channels: int, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 1, width, 3, padding=1)
        self.second = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        ConditionReader().read(cond, x)
        level = (label / 1000).to(x).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return self.second(torch.relu(self.first(torch.cat([x, level], 1))))
''',
    "conf/network/two_convolutions.yaml": """
# 235 parameters: the least network
_target_: alphabar.models.networks.two_convolutions.TwoConvolutions
channels: ${space.channels}
""",
    "src/alphabar/models/conditioners/brightness.py": '''
"""The brightness of an image as its condition."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, ImageNoise, RankShare
from alphabar.models.codecs import Codec
from alphabar.models.conditioners import ImageConditioner


class Brightness(ImageConditioner):
    """The condition is the mean of an image, in [0, 1]; prompts are such numbers."""

    @property
    def is_optional(self) -> bool:
        return False

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        return self.from_image(batch["image"], ImageNoise(0, range(len(batch["image"]))))

    def null(self, num: int) -> Cond:
        return {"vector": torch.zeros(num, 1)}

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        return {"vector": torch.tensor([[float(prompt)] for prompt in prompts])}

    def must_follow(self, codec: Codec, channels: int, resolution: int) -> None:
        pass

    def from_image(self, images: Tensor, noise: ImageNoise) -> Cond:
        return {"vector": images.float().mean((1, 2, 3))[:, None] / 255}
''',
    "conf/conditioner/brightness.yaml": """
# @package _global_
# The brightness of the image
conditioning:
  vector: 1
  tokens: 0
  image: 0
conditioner:
  _target_: alphabar.models.conditioners.brightness.Brightness
""",
    "src/alphabar/data/stripes.py": '''
"""Images of stripes, of two classes."""

import torch

from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.image_sets.resident import ResidentImages


class StripesSource(ImageSource):
    """Grey images 8x8, half of them with horizontal stripes and half with vertical ones."""

    @property
    def shape(self) -> Shape:
        return Shape(channels=1, height=8, width=8)

    @property
    def symmetric(self) -> bool:
        return True

    @property
    def classes(self) -> tuple[str, ...]:
        return "horizontal", "vertical"

    @property
    def captions(self) -> None:
        return None

    def prepare(self) -> None:
        pass

    def train(self) -> ImageSet:
        return self._images(256)

    def held_out(self) -> ImageSet:
        return self._images(64)

    def fingerprint(self) -> str:
        return "stripes"

    def _images(self, num: int) -> ImageSet:
        labels = torch.arange(num) % 2
        rows = (torch.arange(8).view(1, 8) + torch.arange(num).view(num, 1) // 2) % 4 // 2 * 255
        across = rows.to(torch.uint8).view(num, 1, 8, 1).expand(num, 1, 8, 8)
        down = across.transpose(2, 3)
        return ResidentImages(torch.where(labels.view(num, 1, 1, 1) == 1, down, across).contiguous(), labels)


class Stripes(ImageDataModule):
    """Feeds the images of `StripesSource` to training."""

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__(StripesSource(), batch_size, seed)
''',
    "conf/data/stripes.yaml": """
# Stripes, horizontal or vertical, 8x8: no download.
#   python train.py data=stripes
_target_: alphabar.data.stripes.Stripes
seed: ${seed}
""",
}


def copy_with(folder: Path, files: dict[str, str]) -> Path:
    """Copies the repository's code, configuration, tests and documents into a folder, adds the files, and returns the folder."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "tests", "docs", "benchmarks"):
        shutil.copytree(runs.ROOT / name, folder / name, ignore=ignored)
    for name in ("train.py", "sample.py", "evaluate.py", "pyproject.toml", "Makefile", *(file.name for file in documents.FILES)):
        if (runs.ROOT / name).exists():
            shutil.copy(runs.ROOT / name, folder / name)
    for name, content in files.items():
        (folder / name).write_text(content.lstrip("\n"))
    return folder
