"""Published CLIP models by Hugging Face's transformers."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from alphabar.errors import UserError
from alphabar.models.clip import CLIP, must_be_images
from alphabar.models.hub import CONFIG, model_folder
from alphabar.models.resize import resize
from alphabar.models.text import TOKENIZER, VOCABULARIES, TextEncoder, library, load, undisturbed

WHAT = "CLIP"
PREPROCESSOR = "preprocessor_config.json"
MAX_TOKENS = 10_000  # more than any CLIP reads, so that its own limit counts
BATCH = 32


class Colours(NamedTuple):
    """The mean and standard deviation of red, green and blue in 0..1, by which images are normalised."""

    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)


class PretrainedCLIP(CLIP):
    """Both towers of a CLIP (Radford et al. 2021) by Hugging Face's transformers; whole images are resized to its input size.

    name: a folder as save_pretrained writes it, with model and tokenizer, or a model of the hub.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._model: Any = None

    @cached_property
    def folder(self) -> Path:
        """The local folder, after a download if necessary. Raises UserError if the model cannot be found."""
        library()
        return model_folder(WHAT, self.name, (*TOKENIZER, PREPROCESSOR), VOCABULARIES)

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
        content = _read(self.folder / CONFIG)
        if content.get("model_type") != "clip" or not isinstance(content.get("projection_dim"), int):
            raise UserError(f"{WHAT}: {self.folder} holds a network of type {content.get('model_type')}, not clip with both towers")
        return content

    @cached_property
    def _colours(self) -> Colours:
        path = self.folder / PREPROCESSOR
        if not path.is_file():
            return Colours()
        content = _read(path)
        try:
            given = Colours(*(tuple(map(float, content[key])) for key in ("image_mean", "image_std")))
            if any(len(values) != 3 for values in given) or min(given.std) <= 0:
                raise ValueError("not three numbers")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{WHAT}: {path} does not give image_mean and image_std as three numbers each") from error
        return given

    @cached_property
    def _encoder(self) -> TextEncoder:
        """The tokenizer and its maximal length; the encoder's weights are not used."""
        assert self._config
        return TextEncoder(str(self.folder), MAX_TOKENS)

    @property
    def _loaded(self) -> Any:
        if self._model is None:
            assert self._config
            self._model = load(WHAT, "CLIPModel", self.folder)
        return self._model


def _read(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file. Raises UserError for any other content."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError) as error:
        raise UserError(f"{WHAT}: {path} is damaged or another kind of file") from error
    return content
