"""Published CLIP models by Hugging Face's transformers."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from alphabar.errors import UserError
from alphabar.models.clip import CLIP, must_be_images
from alphabar.models.frozen import (
    OPENAI_CLIP,
    PREPROCESSOR,
    Colours,
    image_colours,
    load_transformers,
    transformers_library,
    undisturbed,
)
from alphabar.models.hub import CONFIG, Wanted, model_folder, read_json
from alphabar.models.resize import resize
from alphabar.models.text import TOKENIZER, VOCABULARIES, TextEncoder

WHAT = "CLIP"
FILES = Wanted(WHAT, files=(*TOKENIZER, PREPROCESSOR), vocabularies=VOCABULARIES)
MAX_TOKENS = 10_000  # more than any CLIP reads, so that its own limit counts
BATCH = 32


class PretrainedCLIP(CLIP):
    """Both towers of a CLIP (Radford et al. 2021) by Hugging Face's transformers; whole images are resized to its input size.

    name: a folder as save_pretrained writes it, with model and tokenizer, or a model of the hub.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def folder(self) -> Path:
        """The local folder, after a download if necessary. Raises UserError if the model cannot be found."""
        transformers_library(WHAT)
        return model_folder(FILES, self.name)

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return self._config["projection_dim"]

    @cached_property
    def digest(self) -> str:
        colours = repr(tuple(self._colours))
        return hashlib.sha256((self._encoder.digest + colours).encode()).hexdigest()

    def images(self, images: Tensor) -> Tensor:
        images, model = must_be_images(images), self._loaded.to(images.device)
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in self._colours)
        size = model.config.vision_config.image_size
        with undisturbed(images.device):
            pooled = [model.vision_model((resize(part, size) / 255 - mean) / std).pooler_output for part in images.split(BATCH)]
            return F.normalize(model.visual_projection(torch.cat(pooled)), dim=1)

    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        rows = self._encoder.ids(texts)
        model = self._loaded.to(device)
        with undisturbed(device):
            pooled: list[Tensor] = []
            for start in range(0, len(rows), BATCH):
                part = [torch.tensor(row, device=device) for row in rows[start : start + BATCH]]
                states = model.text_model(input_ids=pad_sequence(part, batch_first=True)).last_hidden_state  # causal: no mask
                pooled += [state[len(row) - 1] for state, row in zip(states, part, strict=True)]  # the end-of-text token
            return F.normalize(model.text_projection(torch.stack(pooled)), dim=1)

    @cached_property
    def _config(self) -> dict[str, Any]:
        content = read_json(WHAT, self.folder / CONFIG, FILES.remedy())
        if content.get("model_type") != "clip" or not isinstance(content.get("projection_dim"), int):
            raise UserError(f"{WHAT}: {self.folder} holds a network of type {content.get('model_type')}, not clip with both towers")
        return content

    @cached_property
    def _colours(self) -> Colours:
        return image_colours(WHAT, self.folder, OPENAI_CLIP)

    @cached_property
    def _encoder(self) -> TextEncoder:
        """The tokenizer and its maximal length; the encoder's weights are not used."""
        assert self._config
        return TextEncoder(str(self.folder), MAX_TOKENS)

    @cached_property
    def _loaded(self) -> Any:
        assert self._config
        return load_transformers(WHAT, "CLIPModel", self.folder)
