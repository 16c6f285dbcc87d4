"""A network for vectors, such as the embeddings of images."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from alphabar.models.networks import ConditionReader, Network, Tokens
from alphabar.models.networks.blocks import NoiseEmbedding, TokenAttention, zero_init

_NUM_FREQUENCIES = 128  # sines and cosines of the noise level


class PriorBlock(nn.Module):
    """A block h + attention of norm(h) to the tokens, if any, then + gate * MLP(norm(h) * (1 + scale) + shift).

    Shift, scale and gate are linear in the embedding of the noise level; both branches are 0 before training.
    """

    def __init__(self, width: int, num_heads: int, hidden_width: int, dropout: float, has_tokens: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(width, 3 * width))
        self.cross = TokenAttention(width, width, num_heads) if has_tokens else None
        self.mlp = nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden_width, width))

    def forward(self, h: Tensor, embedding: Tensor, tokens: Tokens | None) -> Tensor:
        if self.cross is not None and tokens is not None:
            h = h + self.cross(self.norm(h)[:, None], tokens)[:, 0]
        shift, scale, gate = self.modulation(embedding).chunk(3, dim=1)
        return h + gate * self.mlp(self.norm(h) * (1 + scale) + shift)


class Prior(Network):
    """Residual MLPs over a vector that attends to tokens, modulated by the noise level, after Ramesh et al. 2022, sec. 2.2.

    Theirs is a causal transformer over caption, noise level and vector, and predicts the clean vector, as parameterization=x does.
    Here the tokens come from an encoder that has read the caption, and only the vector attends, which is a tenth of the work.

    channels: the length D of the vectors. width: inside; a multiple of num_heads. mlp_ratio: the hidden width of the MLPs over
        `width`. vector_channels, token_channels: the widths of the conditions; 0: it reads none. The vector joins the embedding of
        the noise level.
    Raises ValueError for arguments that do not fit together.
    """

    def __init__(
        self,
        channels: int,
        width: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        vector_channels: int = 0,
        token_channels: int = 0,
    ) -> None:
        super().__init__()
        if channels < 1 or depth < 1:
            raise ValueError(f"need channels and depth >= 1, got channels={channels}, depth={depth}")
        if num_heads < 1 or width < 1 or width % num_heads:
            raise ValueError(f"need num_heads >= 1 that divides width >= 1, got num_heads={num_heads}, width={width}")
        if round(width * mlp_ratio) < 1 or not 0 <= dropout < 1:
            raise ValueError(f"need mlp_ratio > 0 and 0 <= dropout < 1, got mlp_ratio={mlp_ratio}, dropout={dropout}")
        self.reader = ConditionReader(vector_channels, token_channels)
        self.channels = channels
        self.embedding = NoiseEmbedding(_NUM_FREQUENCIES, width, 0, vector_channels)
        self.vector_in = nn.Linear(channels, width)
        self.tokens_in = nn.Linear(token_channels, width) if token_channels else None
        has_tokens = token_channels > 0
        self.blocks = nn.ModuleList(
            [PriorBlock(width, num_heads, round(width * mlp_ratio), dropout, has_tokens) for _ in range(depth)]
        )
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.vector_out = zero_init(nn.Linear(width, channels))

    @property
    def regions(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def forward(self, x: Tensor, label: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"this network reads vectors [B, {self.channels}], got {list(x.shape)}: network=prior is for codec=image_embedding"
            )
        vector, tokens, _ = self.reader.read(cond, x)
        if tokens is not None and self.tokens_in is not None:
            tokens = Tokens(self.tokens_in(tokens.values), tokens.mask)
        embedding = self.embedding(label, vector)
        h = self.vector_in(x)
        for block in self.blocks:
            h = block(h, embedding, tokens)
        return self.vector_out(self.norm_out(h))
