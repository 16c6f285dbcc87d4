"""Diffusion in the latents of an autoencoder."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.files.paths import user_path
from alphabar.models.autoencoder_files import FrozenAutoencoder
from alphabar.models.codecs import LatentCodec
from alphabar.models.codecs.pixels import to_model_range, to_uint8
from alphabar.resolution import format_resolution, is_multiple, nearest_multiples, resolution_of


class Autoencoder(LatentCodec):
    """The codec x = (z - mean) / std, z the latents of a frozen autoencoder: draws of the posterior in training, else its mean.

    Follows Rombach et al. 2022, sec. 3.3 and app. G, which divides by one standard deviation; here each channel has its own mean
    and standard deviation, measured over the training images and kept in checkpoints.

    name: a folder as diffusers' save_pretrained writes it, or a model of the hub; it is neither trained nor saved.
    channels: those of the data. Grey images are repeated for an RGB autoencoder, and decoded as the mean over its channels.
    digest: the SHA-256 of its files, which train.py fills in, so that no other is taken for it; None: any.
    cache: whether each training image is encoded once; else at every step. cache_dir: the folder of the cached latents.
    Raises ValueError unless channels >= 1.
    """

    mean: Tensor
    std: Tensor
    num_measured: Tensor

    def __init__(
        self, name: str, channels: int, digest: str | None = None, cache: bool = True, cache_dir: str = "outputs/cache/latents"
    ) -> None:
        super().__init__(user_path(cache_dir) if cache else None)
        if channels < 1:
            raise ValueError(f"need channels >= 1, got channels={channels}")
        self.autoencoder = FrozenAutoencoder(name, digest)
        self.channels = channels
        size = self.autoencoder.latent_channels
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("num_measured", torch.zeros((), dtype=torch.int64))

    @property
    def is_bounded(self) -> bool:
        return False

    @property
    def makes_images(self) -> bool:
        return True

    @property
    def frozen_parts(self) -> Mapping[str, str]:
        return {"codec_name": self.autoencoder.name}

    @property
    def digest(self) -> str:
        return self.autoencoder.digest

    @property
    def is_measured(self) -> bool:
        return int(self.num_measured) > 0

    def space(self, channels: int, height: int, width: int) -> Sequence[int]:
        theirs, factor = self.autoencoder.channels, self.autoencoder.factor
        if channels not in (1, theirs):
            raise ValueError(
                f"the autoencoder {self.autoencoder.name} is of images with {theirs} channels, the data's have {channels}"
            )
        resolution = resolution_of(height, width)
        if not is_multiple(resolution, factor):
            raise ValueError(
                f"the autoencoder {self.autoencoder.name} makes a latent of {factor}x{factor} pixels: "
                f"need a resolution that is a multiple of {factor}, got {format_resolution(resolution)}: "
                f"data.resolution={nearest_multiples(resolution, factor)}"
            )
        return self.autoencoder.latent_channels, height // factor, width // factor

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Tensor:
        if "latent" not in batch:
            found = self.autoencoder.posterior(self._input(batch["image"]))
            return self._normalised(found.sample(share))
        mean, std = batch["latent"].to(self.mean.device).float().unbind(1)
        return self._normalised(mean + std * share.randn_like(mean))

    def encode(self, images: Tensor) -> Tensor:
        return self._normalised(self.autoencoder.posterior(self._input(images)).mean)

    def decode(self, x: Tensor) -> Tensor:
        images = self.autoencoder.decode(x.to(self.mean.device).float() * self._wide(self.std) + self._wide(self.mean))
        return to_uint8(images if images.shape[1] == self.channels else images.mean(1, keepdim=True)).to(x.device)

    def distribution(self, images: Tensor) -> Tensor:
        found = self.autoencoder.posterior(self._input(images))
        return torch.stack([found.mean, (0.5 * found.log_variance).exp()], dim=1)

    def measure(self, mean: Tensor, std: Tensor, num: int) -> None:
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.num_measured.fill_(num)

    def _input(self, images: Tensor) -> Tensor:
        """Returns images as the autoencoder's input in [-1, 1], on the module's device."""
        x = to_model_range(images.to(self.mean.device))
        return x.expand(-1, self.autoencoder.channels, -1, -1)

    def _normalised(self, latents: Tensor) -> Tensor:
        return (latents - self._wide(self.mean)) / self._wide(self.std)

    def _wide(self, values: Tensor) -> Tensor:
        return values[:, None, None]
