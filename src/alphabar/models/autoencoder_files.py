"""A frozen autoencoder, in a folder as diffusers' save_pretrained writes it or on the hub."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.errors import UserError
from alphabar.models.autoencoder import Posterior, library, posterior
from alphabar.models.hub import CONFIG, DIFFUSERS, first_sentence, model_folder
from alphabar.models.text import undisturbed

WHAT = "autoencoder"
CLASS = "AutoencoderKL"
PIXELS = 2**20  # of images that it looks at or makes at once, one image at least


class FrozenAutoencoder:
    """diffusers' AutoencoderKL in float32.

    It is no module, so that the one that holds it neither trains nor saves it; its weights are read when they are first needed, and
    go to the device of what they are asked about.

    name: the folder, or a model of the hub. digest: what its own has to be; None: any.
    """

    def __init__(self, name: str, digest: str | None = None) -> None:
        self.name = name
        self.wanted = digest
        self._model: Any = None

    @cached_property
    def folder(self) -> Path:
        """Where it is, after a download if need be. Raises UserError if it is not to be had, or has another digest."""
        folder = model_folder(WHAT, self.name, layout=DIFFUSERS)
        found = digest(folder)
        if self.wanted not in (None, found):
            raise UserError(
                f"{WHAT}: the files in {folder} are not those that the latents are of: their SHA-256 is {found[:16]}..., "
                f"need {str(self.wanted)[:16]}..."
            )
        return folder

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files that make it what it is."""
        return digest(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json says. Raises UserError for another kind of network."""
        path = self.folder / CONFIG
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            kind = content["_class_name"]
            sizes = content["in_channels"], content["out_channels"], content["latent_channels"], *content["block_out_channels"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{WHAT}: {path} is damaged or another kind of file") from error
        if kind != CLASS:
            raise UserError(f"{WHAT}: {self.folder} holds a network of type {kind}, not {CLASS}")
        if not all(isinstance(size, int) and size > 0 for size in sizes) or sizes[0] != sizes[1]:
            raise UserError(f"{WHAT}: {path} is damaged: it has channels {', '.join(map(str, sizes))}")
        return content

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.config["in_channels"]

    @property
    def latent_channels(self) -> int:
        return self.config["latent_channels"]

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    def posterior(self, x: Tensor) -> Posterior:
        """Of images float32 [B, C, H, W] in [-1, 1]; always the same, whatever the precision and the gradients around it."""
        model = self._loaded.to(x.device)
        with undisturbed(x.device):
            parts = [posterior(model, part.float()) for part in x.split(at_once(x.shape[2] * x.shape[3]))]
        return Posterior(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def decode(self, latents: Tensor) -> Tensor:
        """Images float32 [B, C, H, W], about [-1, 1]."""
        model = self._loaded.to(latents.device)
        with undisturbed(latents.device):
            parts = latents.split(at_once(latents.shape[2] * latents.shape[3] * self.factor**2))
            return torch.cat([model.decode(part.float()).sample for part in parts])

    @property
    def _loaded(self) -> Any:
        if self._model is None:
            self._model = _load(self.folder)
        return self._model


def at_once(pixels: int) -> int:
    """How many images of so many pixels, so that memory does not grow with the batch."""
    return max(1, PIXELS // pixels)


def digest(folder: Path) -> str:
    """SHA-256 of the configuration and the weights in a folder."""
    found = hashlib.sha256()
    for name in (CONFIG, next(name for name in DIFFUSERS.weights if (folder / name).is_file())):
        with (folder / name).open("rb") as file:
            found.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _load(folder: Path) -> Any:
    """The model in the folder, float32, frozen, with all its weights, on the CPU."""
    diffusers = library()
    try:
        with undisturbed(torch.device("cpu")):
            model, info = diffusers.AutoencoderKL.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
            )
    except Exception as error:  # of whatever kind: any bytes may stand in a file
        raise UserError(f"{WHAT}: cannot read the weights in {folder} ({first_sentence(error)})") from error
    lacking = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if lacking:
        shown = ", ".join(lacking[:2]) + (f" and {len(lacking) - 2} more" if len(lacking) > 2 else "")
        raise UserError(f"{WHAT}: the weights in {folder} do not fit their {CONFIG}: missing or of another size are {shown}")
    return model.float().requires_grad_(False).eval()
