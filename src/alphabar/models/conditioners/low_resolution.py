"""The image at a low resolution as its condition: super-resolution, and the later stages of a cascade."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, ImageNoise, RankShare
from alphabar.models.codecs import Codec
from alphabar.models.codecs.pixels import Pixels, to_uint8
from alphabar.models.conditioners import ImageConditioner
from alphabar.models.networks.blocks import sinusoidal_embedding
from alphabar.resolution import Resolution, format_resolution, sides

SEED = 0  # seeds the noise in eval mode
STEPS = 1000  # sinusoidal embeddings are scaled for the timesteps of a discrete schedule


class LowResolution(ImageConditioner):
    """The condition is the image at a low resolution, with noise of a random level s that is part of the condition, so that the
    model also accepts samples of an earlier model, which are never quite real images (noise conditioning augmentation):

    low = sqrt(1 - s^2) * down(image) + s * eps, image: up(low), vector: sinusoids(1000 s), with s ~ U[0, max_level] in training.
    Ho et al. 2021, "Cascaded diffusion models", sec. 4.2, which truncates no chain; Saharia et al. 2022, Imagen, sec. 2.4.

    down is bicubic with antialiasing and rounds to bytes, which is how an earlier model's samples come; up is bilinear.

    channels, full_resolution: the shape of the images. resolution: the low one, of the same proportions. width: the length of the
    vector.
    sample_level: s in sampling and evaluation; a higher one hides more of an earlier model's faults, and of its detail.
    dropout: the share of training images with the null condition: a grey image, and 0 for the sinusoids of its level.
    Raises ValueError unless 1 <= resolution < full_resolution, in one proportion, channels >= 1, width is even and >= 2,
    0 <= sample_level <= max_level < 1 and 0 <= dropout <= 1.
    """

    home: Tensor

    def __init__(
        self,
        channels: int,
        full_resolution: Resolution,
        resolution: Resolution,
        width: int,
        max_level: float = 0.5,
        sample_level: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dropout)
        self.full_size, self.low_size = sides(full_resolution), sides(resolution)
        (height, width_), (low_height, low_width) = self.full_size, self.low_size
        if low_height >= height or low_height * width_ != low_width * height or channels < 1:
            raise ValueError(
                f"need 1 <= resolution < {format_resolution(full_resolution)}, that of the data, in the same proportions, and "
                f"channels >= 1, got resolution={format_resolution(resolution)}, channels={channels}"
            )
        if width < 2 or width % 2:
            raise ValueError(f"need an even width >= 2, got width={width}")
        if not 0 <= sample_level <= max_level < 1:
            raise ValueError(f"need 0 <= sample_level <= max_level < 1, got sample_level={sample_level}, max_level={max_level}")
        self.channels, self.width = channels, width
        self.max_level, self.sample_level = max_level, sample_level
        self.register_buffer("home", torch.zeros(1), persistent=False)  # follows the module to its device

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        if "image" not in batch:
            raise ValueError("conditioner=low_resolution needs images in a batch, and there are none")
        images = batch["image"]
        if not self.training:
            return self.from_image(images, ImageNoise(SEED, range(len(images))))
        low = self.low(images)
        s = self.max_level * share.rand(len(low), low.device)
        cond = self._condition(low, s, share.randn_like(low))
        kept = (~self.dropped(len(low), low.device, share)).float()
        return {"image": cond["image"] * kept.view(-1, 1, 1, 1), "vector": cond["vector"] * kept.view(-1, 1)}

    def null(self, num: int) -> Cond:
        return {"image": self.home.new_zeros(num, self.channels, *self.full_size), "vector": self.home.new_zeros(num, self.width)}

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        raise ValueError("conditioner=low_resolution is conditioned on images: prompts are for the first of 'stages=[...]'")

    def must_follow(self, codec: Codec, channels: int, height: int, width: int) -> None:
        wanted = self._describe(self.low_size)
        if not codec.makes_images:
            raise ValueError(f"need a stage that makes images of {wanted}, got one that makes none")
        if (channels, height, width) != (self.channels, *self.low_size):
            raise ValueError(f"need a stage that makes images of {wanted}, got {channels} x {height} x {width}")

    def from_image(self, images: Tensor, noise: ImageNoise) -> Cond:
        low = self.low(images)
        return self._condition(low, torch.full((len(low),), self.sample_level, device=low.device), noise(low))

    def low(self, images: Tensor) -> Tensor:
        """Returns [B, C, h, w] in [-1, 1] from uint8 images of the low or of the full resolution; raises ValueError for others."""
        shape = tuple(images.shape[1:])
        allowed = [(self.channels, *size) for size in (self.low_size, self.full_size)]
        if images.dtype != torch.uint8 or shape not in allowed:
            sizes = " or ".join(map(self._describe, (self.low_size, self.full_size)))
            raise ValueError(f"need uint8 images of {sizes}, got {images.dtype} {' x '.join(map(str, shape))}")
        x = Pixels().encode(images.to(self.home.device))
        if shape == allowed[0]:
            return x
        return Pixels().encode(to_uint8(interpolate(x, self.low_size, mode="bicubic", align_corners=False, antialias=True)))

    def _condition(self, low: Tensor, s: Tensor, eps: Tensor) -> dict[str, Tensor]:
        level = s.view(-1, 1, 1, 1)
        noisy = (1 - level**2).sqrt() * low + level * eps
        image = interpolate(noisy, self.full_size, mode="bilinear", align_corners=False)
        return {"image": image, "vector": sinusoidal_embedding(STEPS * s, self.width, frequency_shift=0).to(self.home.dtype)}

    def _describe(self, size: tuple[int, int]) -> str:
        return f"{self.channels} x {size[0]} x {size[1]}"
