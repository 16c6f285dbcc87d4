"""The parts of a diffusion U-Net: noise-level embedding, residual block, self-attention, attention to tokens, resampling."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.models.networks import Tokens
from alphabar.models.networks.kernels import attention, group_norm, group_norm_silu


def zero_init(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Returns the module with weight and bias 0, so that the branch it ends adds nothing before training."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def sinusoidal_embedding(label: Tensor, num_channels: int, frequency_shift: int) -> Tensor:
    """Maps [B] to [B, num_channels]: sin(label * w_i) for all i, then cos(label * w_i), in float32.

    w_i = 10000 ** (-i / (num_channels / 2 - frequency_shift)); Vaswani et al. 2017, sec. 3.5.
    """
    half = num_channels // 2
    index = torch.arange(half, dtype=torch.float32, device=label.device)
    frequencies = torch.exp(-math.log(10_000) * index / (half - frequency_shift))
    # In bfloat16, 0..999 are but 507 different numbers.
    angles = label.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class NoiseEmbedding(nn.Module):
    """An embedding SiLU(Linear(SiLU(Linear(sinusoids(label))))) of the noise level (Ho et al. 2020, app. B).

    vector_channels: the length of a vector that a linear layer adds before the last SiLU, as Dhariwal & Nichol 2021 (sec. 3.1) add
        the embedding of the class; 0: none.
    """

    def __init__(self, num_channels: int, out_channels: int, frequency_shift: int, vector_channels: int = 0) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.frequency_shift = frequency_shift
        self.linear1 = nn.Linear(num_channels, out_channels)
        self.linear2 = nn.Linear(out_channels, out_channels)
        self.vector = nn.Linear(vector_channels, out_channels) if vector_channels else None

    def forward(self, label: Tensor, vector: Tensor | None = None) -> Tensor:
        """Maps [B] and [B, vector_channels] to [B, out_channels], in the dtype of the weights whatever the autocast."""
        with torch.autocast(label.device.type, enabled=False):
            sinusoids = sinusoidal_embedding(label, self.num_channels, self.frequency_shift)
            dtype = self.linear1.weight.dtype
            hidden = self.linear2(F.silu(self.linear1(sinusoids.to(dtype))))
            if self.vector is not None and vector is not None:
                hidden = hidden + self.vector(vector.to(dtype))
            return F.silu(hidden)


class ResidualBlock(nn.Module):
    """A block x + conv(dropout(SiLU(norm(conv(SiLU(norm(x))) + Linear(embedding))))); Ho et al. 2020, app. B.

    scale_shift: the embedding scales and shifts after the second norm instead (Dhariwal & Nichol 2021, sec. 3.1):
        norm(h) * (1 + scale) + shift.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        norm_groups: int,
        norm_eps: float,
        dropout: float,
        scale_shift: bool,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = nn.GroupNorm(norm_groups, in_channels, norm_eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.project = nn.Linear(embedding_channels, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = nn.GroupNorm(norm_groups, out_channels, norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(group_norm_silu(self.norm1, x))
        modulation = self._modulation(embedding)
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = F.silu(group_norm(self.norm2, h.to(scale.dtype)) * (1 + scale) + shift)
        else:
            h = group_norm_silu(self.norm2, h + modulation)
        h = self.conv2(self.dropout(h))
        return self.shortcut(x) + h

    def _modulation(self, embedding: Tensor) -> Tensor:
        """Returns Linear(embedding) [B, C, 1, 1], or 2 C to scale and shift, in the dtype of its weights whatever the autocast.

        So small a product is slower in bfloat16.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            return self.project(embedding.to(self.project.weight.dtype))[:, :, None, None]


def self_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """Returns softmax(q k^T / sqrt(head_channels)) v [B, N, C] from qkv [B, N, 3 C], the heads side by side in C."""
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, num_heads, N, head_channels]
    return attention(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """A layer x + Linear(attention over all pixels of norm(x)), where attention is softmax(q k^T / sqrt(head_channels)) v.

    head_channels: channels per head; None is one head.
    """

    def __init__(self, channels: int, head_channels: int | None, norm_groups: int, norm_eps: float) -> None:
        super().__init__()
        self.num_heads = 1 if head_channels is None else channels // head_channels
        self.norm = nn.GroupNorm(norm_groups, channels, norm_eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        pixels = group_norm(self.norm, x).flatten(2).transpose(1, 2)  # [B, H*W, C]
        mixed = self_attention(self.qkv(pixels), self.num_heads)
        return x + self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class TokenAttention(nn.Module):
    """A layer Linear(softmax(q k^T / sqrt(head_channels)) v), with q of x, k and v of the tokens; it gives 0 before training."""

    def __init__(self, channels: int, token_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(token_channels, 2 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """Maps [B, N, channels] to the same shape."""
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, num_heads, N, head_channels]
        k, v = self.kv(tokens.values).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v, tokens.mask[:, None, None])
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """A layer x + attention of all pixels of norm(x) over the tokens (Rombach et al. 2022, sec. 3.3).

    head_channels: channels per head; None is one head.
    """

    def __init__(self, channels: int, token_channels: int, head_channels: int | None, norm_groups: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, norm_eps)
        self.attention = TokenAttention(channels, token_channels, 1 if head_channels is None else channels // head_channels)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        pixels = group_norm(self.norm, x).flatten(2).transpose(1, 2)  # [B, H*W, C]
        return x + self.attention(pixels, tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """A layer that halves the resolution by a 3x3 convolution of stride 2.

    symmetric: pad all four sides, else only the right and the lower one, as TensorFlow and with it Ho et al. do.
    """

    def __init__(self, channels: int, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """A layer that doubles the resolution by repeating pixels, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
