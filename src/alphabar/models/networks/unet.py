"""The U-Net of DDPM and ADM."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from alphabar.models.networks import ConditionReader, Network
from alphabar.models.networks.blocks import (
    CrossAttention,
    Downsample,
    NoiseEmbedding,
    ResidualBlock,
    SelfAttention,
    Upsample,
    zero_init,
)
from alphabar.models.networks.kernels import group_norm_silu
from alphabar.models.networks.levels import DownLevel, Layer, UpLevel
from alphabar.resolution import Resolution, format_resolution, is_multiple, nearest_multiples, nearest_size, num_halvings, sides


class UNet(Network):
    """Residual blocks down to the lowest resolution and up again, with a skip across at every layer.

    Ho et al. 2020, app. B; `scale_shift` and `head_channels` as in Dhariwal & Nichol 2021, sec. 3. The outputs of all
    branches and of the network start at 0.

    resolution: pixels per side, or [height, width]; multiples of 2 ** (len(channel_multipliers) - 1). Images of other multiples
        may be given later.
    channel_multipliers: one resolution each, the first at full size; its width is base_channels times the multiplier.
    attention_resolutions: the longer sides, in pixels, of the levels with self-attention after every residual block; others are
        ignored.
    head_channels: channels per attention head; None is one head.
    norm_groups: groups of every GroupNorm; has to divide every width.
    scale_shift: the noise level scales and shifts after a norm (ADM) instead of adding before it (DDPM).
    frequency_shift, symmetric_padding, norm_eps: what differs between published checkpoints; see `blocks`.
    learned_variance: put out twice as many channels, the second half for the variance of the reverse step.
    vector_channels, token_channels, image_channels: the widths of the conditions; 0: it reads none. The vector joins the embedding
        of the noise level, attention to the tokens follows every self-attention, the image joins the channels of the input.
    augmentation_channels: the length of the label of an augmentation, which joins the vector; 0: there is none.
    Raises ValueError for arguments that do not fit together.
    """

    def __init__(
        self,
        channels: int,
        resolution: Resolution,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        head_channels: int | None = None,
        norm_groups: int = 32,
        scale_shift: bool = False,
        frequency_shift: int = 1,
        symmetric_padding: bool = False,
        norm_eps: float = 1e-6,
        learned_variance: bool = False,
        vector_channels: int = 0,
        token_channels: int = 0,
        image_channels: int = 0,
        augmentation_channels: int = 0,
    ) -> None:
        super().__init__()
        self.reader = ConditionReader(vector_channels, token_channels, image_channels, augmentation_channels)
        _check_numbers(channels, base_channels, num_res_blocks, dropout, frequency_shift, norm_eps)
        _check_resolutions(resolution, channel_multipliers, attention_resolutions)
        self.channels, self.resolution = channels, resolution
        self.base_channels, self.channel_multipliers = base_channels, tuple(channel_multipliers)
        self.num_res_blocks, self.dropout, self.scale_shift = num_res_blocks, dropout, scale_shift
        self.head_channels, self.norm_groups, self.norm_eps = head_channels, norm_groups, norm_eps
        self.frequency_shift, self.symmetric_padding = frequency_shift, symmetric_padding
        self.widths = [base_channels * multiplier for multiplier in channel_multipliers]
        self.attention_resolutions = tuple(attention_resolutions)
        self.attends = [side in self.attention_resolutions for side in self._longer_sides()]
        _check_widths([base_channels, *self.widths], norm_groups)
        attended = [width for width, attends in zip(self.widths, self.attends, strict=True) if attends]
        _check_heads([*attended, self.widths[-1]], head_channels)

        self.embedding = NoiseEmbedding(base_channels, 4 * base_channels, frequency_shift, self.reader.vector_width)
        self.conv_in = nn.Conv2d(channels + image_channels, base_channels, kernel_size=3, padding=1)
        skip_widths = [base_channels]
        self.down = self._build_down(skip_widths)
        width = self.widths[-1]
        self.middle = nn.ModuleList([self._layer(width, width, True), self._layer(width, width, False)])
        self.up = self._build_up(skip_widths)
        self.norm_out = nn.GroupNorm(norm_groups, self.widths[0], norm_eps)
        out_channels = 2 * channels if learned_variance else channels
        self.conv_out = zero_init(nn.Conv2d(self.widths[0], out_channels, kernel_size=3, padding=1))

    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        _check_size(x, 2 ** (len(self.widths) - 1))
        vector, tokens, image = self.reader.read(cond, x)
        embedding = self.embedding(label, vector)
        skips = [self.conv_in(x if image is None else torch.cat([x, image], dim=1))]
        for level in self.down:
            skips += level(skips[-1], embedding, tokens)
        h = skips[-1]
        for layer in self.middle:
            h = layer(h, embedding, tokens)
        for level in self.up:
            h = level(h, skips, embedding, tokens)
        return self.conv_out(group_norm_silu(self.norm_out, h))

    @property
    def unused_arguments(self) -> Sequence[str]:
        if not self.attention_resolutions or any(self.attends):
            return ()
        own, given = self._longer_sides(), self.attention_resolutions
        return [
            f"attention_resolutions={list(given)}: this network has the resolutions {', '.join(map(str, own))}; "
            f"need 'network.attention_resolutions=[{nearest_size(given, own)}]', or [] for no attention"
        ]

    @property
    def regions(self) -> Sequence[nn.Module]:
        return [part for part in self.modules() if isinstance(part, (Layer, Downsample, Upsample))]

    def _longer_sides(self) -> list[int]:
        """Returns the longer side of the images at each level, in pixels."""
        return [max(sides(self.resolution)) // 2**i for i in range(len(self.widths))]

    def _layer(self, in_channels: int, out_channels: int, attends: bool) -> Layer:
        residual = ResidualBlock(
            in_channels,
            out_channels,
            embedding_channels=4 * self.base_channels,
            norm_groups=self.norm_groups,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            scale_shift=self.scale_shift,
        )
        if not attends:
            return Layer(residual, nn.Identity())
        shape = self.head_channels, self.norm_groups, self.norm_eps
        tokens = self.reader.token_channels
        cross = CrossAttention(out_channels, tokens, *shape) if tokens else None
        return Layer(residual, SelfAttention(out_channels, *shape), cross)

    def _build_down(self, skip_widths: list[int]) -> nn.ModuleList:
        """Returns the levels from full to lowest resolution; appends the width of every skip they leave."""
        levels = []
        for width, attends in zip(self.widths, self.attends, strict=True):
            layers = []
            for _ in range(self.num_res_blocks):
                layers.append(self._layer(skip_widths[-1], width, attends))
                skip_widths.append(width)
            lowest = len(levels) == len(self.widths) - 1
            if not lowest:
                skip_widths.append(width)
            levels.append(DownLevel(layers, None if lowest else Downsample(width, self.symmetric_padding)))
        return nn.ModuleList(levels)

    def _build_up(self, skip_widths: list[int]) -> nn.ModuleList:
        """Returns the levels from lowest to full resolution; uses `skip_widths` up, one layer more per level than on the way down:
        it takes the skip of the downsampling (in the last level: of the first convolution)."""
        levels, in_channels = [], self.widths[-1]
        for width, attends in zip(reversed(self.widths), reversed(self.attends), strict=True):
            layers = []
            for _ in range(self.num_res_blocks + 1):
                layers.append(self._layer(in_channels + skip_widths.pop(), width, attends))
                in_channels = width
            highest = len(levels) == len(self.widths) - 1
            levels.append(UpLevel(layers, nn.Identity() if highest else Upsample(width)))
        return nn.ModuleList(levels)


def _check_numbers(
    channels: int, base_channels: int, num_res_blocks: int, dropout: float, frequency_shift: int, norm_eps: float
) -> None:
    if channels < 1:
        raise ValueError(f"need channels >= 1, got channels={channels}")
    if num_res_blocks < 1:
        raise ValueError(f"need num_res_blocks >= 1, got num_res_blocks={num_res_blocks}")
    if not 0 <= dropout < 1:
        raise ValueError(f"need 0 <= dropout < 1, got dropout={dropout}")
    if norm_eps <= 0:
        raise ValueError(f"need norm_eps > 0, got norm_eps={norm_eps}")
    if base_channels < 2 or base_channels % 2 or not 0 <= frequency_shift < base_channels // 2:
        raise ValueError(
            "need base_channels even and 0 <= frequency_shift < base_channels / 2 (half sines, half cosines), "
            f"got base_channels={base_channels}, frequency_shift={frequency_shift}"
        )


def _check_resolutions(resolution: Resolution, channel_multipliers: Sequence[int], attention_resolutions: Sequence[int]) -> None:
    multipliers = list(channel_multipliers)
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"need channel_multipliers, one per resolution and each >= 1, got {multipliers}")
    if any(size < 1 for size in attention_resolutions):
        raise ValueError(f"need attention_resolutions > 0, got {list(attention_resolutions)}")
    factor = 2 ** (len(multipliers) - 1)
    if not is_multiple(resolution, factor):
        fitting = ",".join(map(str, multipliers[: num_halvings(resolution) + 1]))
        raise ValueError(
            f"need resolution to be a multiple of {factor}, as {len(multipliers)} channel_multipliers halve it "
            f"{len(multipliers) - 1} times, got resolution={format_resolution(resolution)}: need "
            f"'network.channel_multipliers=[{fitting}]' or another network=... that halves less often, "
            f"or data.resolution={nearest_multiples(resolution, factor)}"
        )


def _check_size(x: Tensor, factor: int) -> None:
    if not is_multiple(size := x.shape[2:], factor):
        raise ValueError(
            f"this network needs sides that are multiples of {factor}, got {format_resolution(size)}: "
            f"{nearest_multiples(size, factor)}"
        )


def _check_widths(widths: Sequence[int], norm_groups: int) -> None:
    if norm_groups < 1 or any(width % norm_groups for width in widths):
        raise ValueError(
            "need norm_groups >= 1 that divides base_channels and base_channels times every multiplier, "
            f"got norm_groups={norm_groups}, channels {sorted(set(widths))}"
        )


def _check_heads(widths: Sequence[int], head_channels: int | None) -> None:
    if head_channels is None:
        return
    if head_channels < 1 or any(width % head_channels for width in widths):
        raise ValueError(
            "need head_channels >= 1 that divides the channels wherever there is attention, "
            f"got head_channels={head_channels}, channels {sorted(set(widths))}"
        )
