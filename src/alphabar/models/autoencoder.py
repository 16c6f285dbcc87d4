"""The KL-regularised autoencoder of latent diffusion, by Hugging Face's diffusers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.models.frozen import diffusers_library
from alphabar.resolution import Resolution, format_resolution, is_multiple, nearest_multiples, sides


class Posterior(NamedTuple):
    """The normal distribution of the latents of an image: mean and log_variance, each float32 [B, c, h, w]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, share: RankShare = SINGLE_PROCESS) -> Tensor:
        """Draws mean + std * eps, for the rows of this process."""
        return self.mean + (0.5 * self.log_variance).exp() * share.randn_like(self.mean)

    def divergence(self) -> Tensor:
        """Returns KL(N(mean, std^2) || N(0, 1)) = sum of (mean^2 + std^2 - 1 - log std^2) / 2 of each image, [B]."""
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance).flatten(1).sum(1)


class KLAutoencoder(nn.Module):
    """The AutoencoderKL of diffusers, the first stage of latent diffusion (Rombach et al. 2022, sec. 3.1 and app. G).

    Each level but the last halves the resolution. The middle has self-attention.
    channels, resolution: the shape of the images. widths: channels of the levels, the finest first. layers_per_level: residual
    blocks in each. Raises ValueError unless all are >= 1, norm_groups divides every width, and the resolution is a multiple of
    2^(levels - 1).
    """

    def __init__(
        self,
        channels: int,
        resolution: Resolution,
        latent_channels: int = 4,
        widths: Sequence[int] = (128, 256, 512, 512),
        layers_per_level: int = 2,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        if min(channels, latent_channels, layers_per_level, norm_groups, len(widths), *widths) < 1:
            raise ValueError(
                f"need channels, latent_channels, widths, layers_per_level and norm_groups >= 1, got channels={channels}, "
                f"latent_channels={latent_channels}, widths={list(widths)}, layers_per_level={layers_per_level}, "
                f"norm_groups={norm_groups}"
            )
        if any(width % norm_groups for width in widths):
            raise ValueError(f"need widths that norm_groups divides, got widths={list(widths)}, norm_groups={norm_groups}")
        self.factor = factor = 2 ** (len(widths) - 1)
        if not is_multiple(resolution, factor):
            raise ValueError(
                f"need a resolution that {len(widths)} widths can halve {len(widths) - 1} times, a multiple of {factor}, "
                f"got resolution={format_resolution(resolution)}: data.resolution={nearest_multiples(resolution, factor)}"
            )
        self.network: Any = diffusers_library("autoencoder").AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            latent_channels=latent_channels,
            block_out_channels=tuple(widths),
            layers_per_block=layers_per_level,
            norm_num_groups=norm_groups,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            sample_size=max(sides(resolution)),
        )

    def posterior(self, x: Tensor) -> Posterior:
        """Returns the posterior of images float32 [B, C, H, W] in [-1, 1]."""
        return encode_posterior(self.network, x)

    def decode(self, latents: Tensor) -> Tensor:
        """Returns images float32 [B, C, H, W], about in [-1, 1]."""
        return self.network.decode(latents).sample.float()

    def save(self, folder: Path) -> None:
        """Writes the folder that diffusers' from_pretrained reads."""
        self.network.save_pretrained(folder)


def encode_posterior(network: Any, x: Tensor) -> Posterior:
    """Returns the posterior of an AutoencoderKL for images [B, C, H, W] in [-1, 1], which clips the log-variance to [-30, 20]."""
    found = network.encode(x).latent_dist
    return Posterior(found.mean.float(), found.logvar.float())
