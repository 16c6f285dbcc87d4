"""The caption of an image as its condition."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.models.conditioners import Conditioner, NeedsCaptions
from alphabar.models.embeddings import TokenEmbeddings, cached_embeddings, concatenate, encode_texts
from alphabar.models.text import TextEncoder

EMPTY_PROMPT = ""  # the prompt of the null condition


class Text(Conditioner):
    """The condition is the tokens that a frozen encoder makes of a caption, as in Imagen (Saharia et al. 2022, sec. 2.1).

    All conditions have `encoder.max_length` tokens, of which "mask" marks those of the caption. The null condition is the empty
    prompt. Tokens are rounded to half precision, in training and in sampling alike.

    encoder: neither trained nor saved. channels: D, the length of a token's vector, for which the network is built.
    dropout: the share of training images that get the null condition.
    cache_dir: where the embeddings of the data's captions are kept, so that each is encoded once.
    Raises ValueError unless channels >= 1 and 0 <= dropout <= 1.
    """

    home: Tensor

    def __init__(self, encoder: TextEncoder, channels: int, dropout: float = 0.1, cache_dir: str = "outputs/cache/text") -> None:
        super().__init__(dropout)
        if channels < 1:
            raise ValueError(f"need channels >= 1, got channels={channels}")
        self.encoder = encoder
        self.channels = channels
        self.cache_dir = user_path(cache_dir)
        self.register_buffer("home", torch.zeros(1), persistent=False)  # follows the module to its device
        # No buffers: DDP would send them from process to process in each step.
        self._captions: TokenEmbeddings | None = None  # the first row is the empty prompt
        self._prompts: dict[str, Tensor] = {}

    @property
    def depicts(self) -> Literal["label", "caption", "vector"] | None:
        return "caption"

    def attach_captions(self, captions: Sequence[str] | None) -> None:
        if captions is None:
            raise NeedsCaptions("conditioner=text needs images with captions, and these data have none")
        self._captions = cached_embeddings(self.encoder, [EMPTY_PROMPT, *captions], self.home.device, self.cache_dir)
        self._must_fit(self._captions.tokens)
        self._prompts[EMPTY_PROMPT] = self._captions.tokens[: int(self._captions.lengths[0])].clone()
        self.encoder.forget()  # reloaded when a prompt needs it

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Cond:
        if "caption" not in batch:
            raise ValueError("conditioner=text needs images with captions, and these data have none")
        if self._captions is None:
            raise ValueError("need the captions of the data before its batches: call attach_captions(captions)")
        self._captions = self._captions.to(self.home.device)
        rows = batch["caption"].to(self.home.device) + 1
        return self._condition(self._captions, torch.where(self.dropped(len(rows), rows.device, share), 0, rows))

    def null(self, num: int) -> Cond:
        embeddings = self._embeddings([EMPTY_PROMPT])
        return self._condition(embeddings, torch.zeros(num, dtype=torch.int64, device=self.home.device))

    def from_prompts(self, prompts: Sequence[str]) -> Cond:
        return self._condition(self._embeddings(prompts), torch.arange(len(prompts), device=self.home.device))

    def _condition(self, embeddings: TokenEmbeddings, rows: Tensor) -> Cond:
        tokens, mask = embeddings.padded(rows, self.encoder.max_length)
        return {"tokens": tokens, "mask": mask}

    def _embeddings(self, texts: Sequence[str]) -> TokenEmbeddings:
        """Returns the embeddings of any texts; each text is encoded the first time that it is seen."""
        new = [text for text in dict.fromkeys(texts) if text not in self._prompts]
        if new:
            made = encode_texts(self.encoder, new, self.home.device)
            self._must_fit(made[0])
            self._prompts.update(zip(new, made, strict=True))
        return concatenate([self._prompts[text].to(self.home.device) for text in texts])

    def _must_fit(self, tokens: Tensor) -> None:
        width = tokens.shape[1]
        if width != self.channels:
            raise UserError(
                f"the text encoder {self.encoder.name} gives tokens of {width} numbers, not {self.channels}: "
                f"set conditioning.tokens={width}"
            )
