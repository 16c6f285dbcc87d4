"""The two towers of a small CLIP: a residual network for images, and a head on top of a frozen text encoder."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.models.embeddings import TokenEmbeddings
from alphabar.models.networks.blocks import Downsample, zero_init
from alphabar.models.resize import resize
from alphabar.models.text import TextEncoder

MAX_SCALE = 100.0
FIRST_SCALE = 1 / 0.07
GROUP = 16  # channels in a group of the group norms


class Towers(nn.Module):
    """Embeds images and captions as unit vectors, and has the temperature of their comparison.

    The text encoder is frozen and only a head on its pooled tokens is trained, as Zhai et al. 2022 (LiT) lock one tower, because a
    few thousand captions teach no language.

    encoder: neither trained nor saved with the towers. text_channels: the length of its tokens' vectors; None: its width.
    width: D, the length of the embeddings. resolution: that of resized images; a multiple of 8. channels: the width of the first
        level; a multiple of 16. hidden: the width of the text head. dropout: applied to the pooled image and in the text head.
    Raises ValueError unless all are >= 1, 0 <= dropout < 1, and resolution and channels are such multiples.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        text_channels: int | None = None,
        width: int = 128,
        resolution: int = 32,
        channels: int = 48,
        hidden: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        text_channels = encoder.width if text_channels is None else text_channels
        if min(text_channels, width, hidden) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"need text_channels, width and hidden >= 1 and 0 <= dropout < 1, got text_channels={text_channels}, "
                f"width={width}, hidden={hidden}, dropout={dropout}"
            )
        if resolution < 8 or resolution % 8:
            raise ValueError(f"need resolution to be a multiple of 8, got resolution={resolution}")
        if channels < GROUP or channels % GROUP:
            raise ValueError(f"need channels to be a multiple of {GROUP}, got channels={channels}")
        self.encoder = encoder
        self.settings = {"text_channels": text_channels, "width": width, "resolution": resolution, "channels": channels}
        self.settings |= {"hidden": hidden}
        self.resolution = resolution
        self.text_channels = text_channels
        self.seeing = ImageTower(channels, width, dropout)
        self.reading = nn.Sequential(
            nn.Linear(text_channels, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width, bias=False)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    @property
    def scale(self) -> Tensor:
        """The scale 1 / temperature of the scalar products, at most 100 (Radford et al. 2021, sec. 2.5)."""
        return self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()

    def images(self, images: Tensor) -> Tensor:
        """Returns unit vectors [B, width] of images [B, 3, H, W] with values in 0..255."""
        return F.normalize(self.seeing(resize(images, self.resolution) / 127.5 - 1), dim=1)

    def texts(self, pooled: Tensor) -> Tensor:
        """Returns unit vectors [N, width] of pooled tokens [N, text_channels], see `pool`."""
        return F.normalize(self.reading(pooled), dim=1)


class ImageTower(nn.Module):
    """Maps [B, 3, R, R] in [-1, 1] to [B, width] by three levels of residual blocks and a mean over all positions."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        levels = [channels, 2 * channels, 4 * channels]
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, channels, kernel_size=3, padding=1)]
        for level, (here, above) in enumerate(zip(levels, [*levels[1:], 0], strict=True)):
            layers.append(ConvBlock(here))
            if level + 1 < len(levels):
                layers += [Downsample(here, symmetric=True), nn.Conv2d(here, above, kernel_size=1)]
        self.body = nn.Sequential(*layers, nn.GroupNorm(4 * channels // GROUP, 4 * channels), nn.SiLU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * channels, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class ConvBlock(nn.Module):
    """Computes x + conv(SiLU(norm(conv(SiLU(norm(x)))))); He et al. 2016, Identity Mappings."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = channels // GROUP
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            zero_init(nn.Conv2d(channels, channels, kernel_size=3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def pool(embeddings: TokenEmbeddings) -> Tensor:
    """Returns the normalised mean of each text's tokens, float32 [N, D], as sentence encoders do (Reimers & Gurevych 2019)."""
    owners = torch.repeat_interleave(torch.arange(len(embeddings.lengths)), embeddings.lengths.cpu()).to(embeddings.tokens.device)
    sums = torch.zeros(len(embeddings.lengths), embeddings.tokens.shape[1], device=embeddings.tokens.device)
    return F.normalize(sums.index_add(0, owners, embeddings.tokens.float()), dim=1)
