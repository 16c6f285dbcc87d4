"""How a U-Net's blocks are joined: layers, and the levels of one resolution on the way down and up."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alphabar.models.networks import Tokens
from alphabar.models.networks.blocks import CrossAttention, Downsample, ResidualBlock, SelfAttention, Upsample


class Layer(nn.Module):
    """A residual block, then self-attention (or nothing: the identity), then attention to the tokens (or nothing: None)."""

    def __init__(
        self, residual: ResidualBlock, attention: SelfAttention | nn.Identity, cross: CrossAttention | None = None
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention
        self.cross = cross

    def forward(self, h: Tensor, embedding: Tensor, tokens: Tokens | None = None) -> Tensor:
        h = self.attention(self.residual(h, embedding))
        return h if self.cross is None else self.cross(h, tokens)


class DownLevel(nn.Module):
    """The layers of one resolution on the way down; whatever it computes becomes a skip, the last also goes on."""

    def __init__(self, layers: Sequence[Layer], downsample: Downsample | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.downsample = downsample

    def forward(self, h: Tensor, embedding: Tensor, tokens: Tokens | None = None) -> list[Tensor]:
        outputs = []
        for layer in self.layers:
            h = layer(h, embedding, tokens)
            outputs.append(h)
        if self.downsample is not None:
            outputs.append(self.downsample(h))
        return outputs


class UpLevel(nn.Module):
    """The layers of one resolution on the way up; each takes the newest skip that is left."""

    def __init__(self, layers: Sequence[Layer], upsample: Upsample | nn.Identity) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.upsample = upsample

    def forward(self, h: Tensor, skips: list[Tensor], embedding: Tensor, tokens: Tokens | None = None) -> Tensor:
        for layer in self.layers:
            h = layer(torch.cat([h, skips.pop()], dim=1), embedding, tokens)
        return self.upsample(h)
