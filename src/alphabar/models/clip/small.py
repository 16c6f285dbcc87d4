"""The small CLIP that experiment=contrastive trains, as a folder."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.errors import UserError
from alphabar.files.atomic import replaced_folder
from alphabar.files.bounded_allocation import bounded_by_files
from alphabar.files.paths import user_path
from alphabar.models.clip import CLIP, must_be_images
from alphabar.models.clip.towers import Towers, pool
from alphabar.models.embeddings import concatenate, encode_texts
from alphabar.models.frozen import undisturbed
from alphabar.models.hub import CONFIG, first_sentence
from alphabar.models.text import TextEncoder

WHAT = "CLIP"
KIND = "alphabar_clip"  # the model_type in config.json
KINDS = (KIND, "alphabar_pair")  # the second is that of earlier versions
WEIGHTS = "model.safetensors"
BATCH = 256
KEYS = ("text_channels", "width", "resolution", "channels", "hidden")


class SmallCLIP(CLIP):
    """A folder with config.json and model.safetensors, and the text encoder that it was trained on top of.

    Raises UserError at first use if one of them is missing, damaged or has changed.
    """

    def __init__(self, folder: str) -> None:
        self.folder = user_path(folder)

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def width(self) -> int:
        return self._config["width"]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of both files; config.json contains the digest of the text encoder."""
        found = hashlib.sha256()
        for name in (CONFIG, WEIGHTS):
            try:
                found.update((self.folder / name).read_bytes())
            except OSError as error:
                raise self._complaint(f"has no {name}; experiment=contrastive writes one as RUN/clip") from error
        return found.hexdigest()

    def images(self, images: Tensor) -> Tensor:
        images, towers = must_be_images(images), self._loaded.to(images.device)
        with undisturbed(images.device):
            return torch.cat([towers.images(part).float() for part in images.split(BATCH)])

    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        towers = self._loaded.to(device)
        with undisturbed(device):
            return towers.texts(pool(concatenate(encode_texts(towers.encoder, texts, device)))).float()

    @cached_property
    def _config(self) -> dict[str, Any]:
        path = self.folder / CONFIG
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            numbers = all(isinstance(content[key], int) for key in (*KEYS, "max_length"))
            if content["model_type"] not in KINDS or not numbers or not isinstance(content["text_encoder"], str):
                raise ValueError("of another kind")
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = "is damaged or another kind of file" if path.is_file() else "does not exist"
            raise UserError(f"{WHAT}: {path} {what}; experiment=contrastive writes one as RUN/clip") from error
        return content

    @cached_property
    def _loaded(self) -> Towers:
        from safetensors.torch import load_file  # comes with transformers, which captions need

        config = self._config
        encoder = TextEncoder(config["text_encoder"], config["max_length"])
        if encoder.digest != config.get("text_digest"):
            raise self._complaint(f"was trained with another text encoder than {config['text_encoder']} is now")
        try:
            weights = self.folder / WEIGHTS
            with undisturbed(torch.device("cpu")), bounded_by_files(str(weights), [weights]):
                towers = Towers(encoder, **{key: config[key] for key in KEYS})
                towers.load_state_dict(load_file(weights))
        except Exception as error:  # any kind: a file may contain any bytes
            raise self._complaint(f"has no weights that fit its {CONFIG} ({first_sentence(error)})") from error
        return towers.requires_grad_(False).eval()

    def _complaint(self, words: str) -> UserError:
        return UserError(f"{WHAT}: the folder {self.folder} {words}")


def save_clip(towers: Towers, folder: Path) -> None:
    """Writes the folder that `SmallCLIP` loads, replacing an earlier one as a whole."""
    from safetensors.torch import save_file

    encoder = towers.encoder
    name = str(encoder.folder) if user_path(encoder.name).is_dir() else encoder.name
    config = {"model_type": KIND, **towers.settings, "text_encoder": name, "max_length": encoder.max_length}
    config["text_digest"] = encoder.digest
    weights = {key: value.detach().cpu().contiguous() for key, value in towers.state_dict().items()}
    with replaced_folder(folder) as partial:
        save_file(weights, partial / WEIGHTS)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
