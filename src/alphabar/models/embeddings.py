"""Token embeddings of many texts: in half precision, without padding, on disk and in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.errors import UserError
from alphabar.files.cache import DiskCache
from alphabar.models.text import BATCH, TextEncoder
from alphabar.progress import show_progress

VERSION = 2


class TokenEmbeddings(NamedTuple):
    """The tokens float16 [T, D] of N texts, one after the other; text i has `lengths[i]` from `starts[i]`, int64 [N] each."""

    tokens: Tensor
    starts: Tensor
    lengths: Tensor

    def __deepcopy__(self, memo: object) -> "TokenEmbeddings":
        """Returns the same embeddings, which nobody changes: those of all captions may fill much of the memory."""
        return self

    def padded(self, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Returns, for texts `rows` int64 [B], tokens float32 [B, length, D], 0 behind the end, and mask bool [B, length]."""
        steps = torch.arange(length, device=rows.device)
        mask = steps < self.lengths[rows, None]
        places = (self.starts[rows, None] + steps).clamp(max=len(self.tokens) - 1)
        return self.tokens[places].float().masked_fill(~mask[:, :, None], 0), mask

    def to(self, device: torch.device) -> "TokenEmbeddings":
        """Returns the embeddings on `device`, fit for training even if made in inference mode."""
        with torch.inference_mode(False):
            return TokenEmbeddings(*(value.to(device) for value in self))


def concatenate(parts: Sequence[Tensor]) -> TokenEmbeddings:
    """Returns the embeddings of texts from the tokens float16 [L, D] of each."""
    device = parts[0].device
    lengths = torch.tensor([len(part) for part in parts], dtype=torch.int64, device=device)
    # Autocast to bfloat16 on a CPU refuses to join float16, unless it is told where to put the result.
    tokens = torch.cat(list(parts), out=parts[0].new_empty(0))
    return TokenEmbeddings(tokens, lengths.cumsum(0) - lengths, lengths)


def encode_texts(encoder: TextEncoder, texts: Sequence[str], device: torch.device) -> list[Tensor]:
    """Returns each text's tokens, float16 [L, D], on the device. Raises UserError for one that is too long or beyond float16."""
    lengths = [len(row) for row in encoder.ids(texts)]
    order = sorted(range(len(texts)), key=lengths.__getitem__)  # texts of about one length need little padding
    parts: dict[int, Tensor] = {}
    with show_progress("reading captions", len(texts), "caption") as bar:
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            tokens, mask = encoder([texts[index] for index in chosen], device)
            with torch.inference_mode(False):
                for index, row, here in zip(chosen, tokens.half(), mask, strict=True):
                    parts[index] = row[here]
            bar.update(len(chosen))
    embedded = [parts[index] for index in range(len(texts))]
    for text, tokens in zip(texts, embedded, strict=True):
        if not tokens.isfinite().all():
            raise UserError(f"the text encoder {encoder.name} gives numbers beyond those of half precision for {text[:60]!r}")
    return embedded


def cached_embeddings(encoder: TextEncoder, texts: Sequence[str], device: torch.device, cache_dir: Path) -> TokenEmbeddings:
    """Returns the embeddings of the texts, in their order, on the CPU: from `cache_dir`, or made on `device` and kept there.

    With them at hand, the encoder's weights are not read but for their hash: texts embedded by another encoder are never used.
    """
    cache = DiskCache(cache_dir)
    path = cache.path("text", VERSION, encoder.digest, encoder.max_length, list(texts))
    return TokenEmbeddings(
        **cache.load_or_make(path, lambda: concatenate(encode_texts(encoder, texts, device)).to(torch.device("cpu"))._asdict())
    )
