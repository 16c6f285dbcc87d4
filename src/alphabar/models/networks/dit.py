"""The diffusion transformer."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphabar.models.networks import ConditionReader, Network, Tokens
from alphabar.models.networks.blocks import NoiseEmbedding, TokenAttention, self_attention, sinusoidal_embedding, zero_init
from alphabar.resolution import Resolution, common_divisors, format_resolution, is_multiple, nearest_multiples, nearest_size, sides

_NUM_FREQUENCIES = 256  # sines and cosines of the noise level, whatever the width; as published


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """Maps [B, C, H, W] to [B, H*W / patch_size**2, C * patch_size**2]: one row a patch, from left to right, from top to bottom."""
    return F.pixel_unshuffle(x, patch_size).flatten(2).transpose(1, 2)


def unpatchify(patches: Tensor, patch_size: int, num_rows: int) -> Tensor:
    """Returns the image [B, C, H, W] from its patches in `num_rows` rows; the inverse of `patchify`."""
    return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (num_rows, -1)), patch_size)


def sinusoidal_positions(num_rows: int, num_columns: int, num_channels: int) -> Tensor:
    """Returns [num_rows * num_columns, num_channels]: `sinusoidal_embedding` of the patch's column, then of its row."""
    rows, columns = (
        sinusoidal_embedding(torch.arange(num), num_channels // 2, frequency_shift=0) for num in (num_rows, num_columns)
    )
    return torch.cat([columns.repeat(num_rows, 1), rows.repeat_interleave(num_columns, dim=0)], dim=1)


class PatchAttention(nn.Module):
    """A layer Linear(softmax(q k^T / sqrt(head_channels)) v), with q, k and v of all patches."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = _linear(width, 3 * width)
        self.out = _linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Maps [B, N, width] to the same shape."""
        return self.out(self_attention(self.qkv(h), self.num_heads))


class DiTBlock(nn.Module):
    """A block h + gate1 * attention(m1(norm(h))), then + attention of norm(h) to tokens, if any, then + gate2 * MLP(m2(norm(h))).

    m(h) = h * (1 + scale) + shift; shifts, scales and gates are linear in the embedding of the noise level and 0 before training.
    """

    def __init__(self, width: int, num_heads: int, hidden_width: int, dropout: float, token_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)  # without weights: one for all
        self.modulation = zero_init(nn.Linear(width, 6 * width))
        self.attention = PatchAttention(width, num_heads)
        self.cross = TokenAttention(width, token_channels, num_heads) if token_channels else None
        self.mlp = nn.Sequential(_linear(width, hidden_width), nn.GELU(approximate="tanh"), _linear(hidden_width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, embedding: Tensor, tokens: Tokens | None = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=2)
        h = h + gate1 * self.dropout(self.attention(self.norm(h) * (1 + scale1) + shift1))
        if self.cross is not None:
            h = h + self.dropout(self.cross(self.norm(h), tokens))
        return h + gate2 * self.dropout(self.mlp(self.norm(h) * (1 + scale2) + shift2))


class DiT(Network):
    """A transformer over patches, whose norms are scaled and shifted by the noise level (adaLN-Zero); Peebles & Xie 2023, sec. 3.

    The outputs of all branches and of the network start at 0. The published S, B, L and XL have width 384, 768, 1024, 1152,
    depth 12, 12, 24, 28 and 6, 12, 16, 16 heads.

    resolution: pixels per side, or [height, width]; multiples of patch_size. Images of other multiples may be given later.
    width: the length of the vector of a patch; has to be a multiple of 4 (positions) and of num_heads.
    mlp_ratio: the hidden width of the MLPs over `width`.
    dropout: applied to the output of every branch (Vaswani et al. 2017, sec. 5.4); none in the paper.
    vector_channels, token_channels, image_channels: the widths of the conditions; 0: it reads none. The vector joins the embedding
        of the noise level, as the class does in the paper; attention to the tokens stands between self-attention and MLP (Chen et
        al. 2023, PixArt, sec. 2.3); the image joins the channels of the input.
    augmentation_channels: the length of the label of an augmentation, which joins the vector; 0: there is none.
    learned_variance: put out twice as many channels, the second half for the variance of the reverse step.
    frequency_shift: see `sinusoidal_embedding`.
    Raises ValueError for arguments that do not fit together.
    """

    positions: Tensor

    def __init__(
        self,
        channels: int,
        resolution: Resolution,
        patch_size: int = 2,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        frequency_shift: int = 0,
        learned_variance: bool = False,
        vector_channels: int = 0,
        token_channels: int = 0,
        image_channels: int = 0,
        augmentation_channels: int = 0,
    ) -> None:
        super().__init__()
        _check_depth(channels, depth, dropout, frequency_shift)
        _check_resolution(resolution, patch_size)
        _check_width(width, num_heads, mlp_ratio)
        self.reader = ConditionReader(vector_channels, token_channels, image_channels, augmentation_channels)
        self.patch_size = patch_size
        height, across = sides(resolution)
        self.grid = height // patch_size, across // patch_size
        out_channels = 2 * channels if learned_variance else channels
        self.embedding = _noise_embedding(width, frequency_shift, self.reader.vector_width)
        self.patch_in = _linear((channels + image_channels) * patch_size**2, width)
        self.register_buffer("positions", sinusoidal_positions(*self.grid, width), persistent=False)
        self.blocks = nn.ModuleList(
            [DiTBlock(width, num_heads, round(width * mlp_ratio), dropout, token_channels) for _ in range(depth)]
        )
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(width, 2 * width))
        self.patch_out = zero_init(nn.Linear(width, out_channels * patch_size**2))

    @property
    def regions(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        if not is_multiple(size := x.shape[2:], self.patch_size):
            raise ValueError(
                f"this network needs sides that are multiples of {self.patch_size}, got {format_resolution(size)}: "
                f"{nearest_multiples(size, self.patch_size)}"
            )
        grid = size[0] // self.patch_size, size[1] // self.patch_size
        vector, tokens, image = self.reader.read(cond, x)
        embedding = self.embedding(label, vector)
        h = self.patch_in(patchify(x if image is None else torch.cat([x, image], dim=1), self.patch_size)) + self._positions(grid)
        for block in self.blocks:
            h = block(h, embedding, tokens)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=2)
        return unpatchify(self.patch_out(self.norm_out(h) * (1 + scale) + shift), self.patch_size, grid[0])

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Returns the embedding [N, width] of the positions in a grid of patches."""
        return self.positions if grid == self.grid else sinusoidal_positions(*grid, self.positions.shape[1]).to(self.positions)


def _linear(in_channels: int, out_channels: int) -> nn.Linear:
    """Returns a linear layer with weights uniform after Glorot and bias 0, as published."""
    linear = nn.Linear(in_channels, out_channels)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _noise_embedding(width: int, frequency_shift: int, vector_channels: int) -> NoiseEmbedding:
    """Returns the embedding with normal weights of standard deviation 0.02 and bias 0, as published."""
    embedding = NoiseEmbedding(_NUM_FREQUENCIES, width, frequency_shift, vector_channels)
    for name, parameter in embedding.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.zeros_(parameter)
    return embedding


def _check_depth(channels: int, depth: int, dropout: float, frequency_shift: int) -> None:
    if channels < 1:
        raise ValueError(f"need channels >= 1, got channels={channels}")
    if depth < 1:
        raise ValueError(f"need depth >= 1, got depth={depth}")
    if not 0 <= dropout < 1:
        raise ValueError(f"need 0 <= dropout < 1, got dropout={dropout}")
    if not 0 <= frequency_shift < _NUM_FREQUENCIES // 2:
        raise ValueError(f"need 0 <= frequency_shift < {_NUM_FREQUENCIES // 2}, got frequency_shift={frequency_shift}")


def _check_resolution(resolution: Resolution, patch_size: int) -> None:
    if patch_size < 1:
        raise ValueError(f"need patch_size >= 1, got patch_size={patch_size}")
    if not is_multiple(resolution, patch_size):
        raise ValueError(
            f"need resolution to be a multiple of patch_size={patch_size}, got resolution={format_resolution(resolution)}: "
            f"need network.patch_size={nearest_size([patch_size], common_divisors(resolution))}, "
            f"or data.resolution={nearest_multiples(resolution, patch_size)}"
        )


def _check_width(width: int, num_heads: int, mlp_ratio: float) -> None:
    if width < 4 or width % 4:
        raise ValueError(f"need width >= 4, a multiple of 4 (sines and cosines of row and column), got width={width}")
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"need num_heads >= 1 that divides width={width}, got num_heads={num_heads}")
    if round(width * mlp_ratio) < 1:
        raise ValueError(f"need mlp_ratio with width * mlp_ratio >= 1, got width={width}, mlp_ratio={mlp_ratio}")
