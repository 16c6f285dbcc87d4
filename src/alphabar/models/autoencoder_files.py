"""A frozen autoencoder, in a folder as diffusers' save_pretrained writes it or on the hub."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.errors import UserError
from alphabar.models.autoencoder import Posterior, encode_posterior
from alphabar.models.frozen import load_diffusers, undisturbed
from alphabar.models.hub import CONFIG, DIFFUSERS, Wanted, files_digest, model_folder, read_json

WHAT = "autoencoder"
CLASS = "AutoencoderKL"
PIXELS = 2**20  # the most pixels that are processed at once, unless one image has more


class FrozenAutoencoder:
    """The AutoencoderKL of diffusers, frozen and in float32.

    It is no nn.Module, so that a module that holds it neither trains nor saves it; its weights are loaded when first needed and
    follow the inputs to their device.

    name: a folder or a model of the hub. digest: the digest that it must have; None: any.
    """

    def __init__(self, name: str, digest: str | None = None) -> None:
        self.name = name
        self.required_digest = digest

    @cached_property
    def folder(self) -> Path:
        """The local folder, after a download if necessary. Raises UserError if it cannot be found or has another digest."""
        folder = model_folder(Wanted(WHAT, DIFFUSERS), self.name)
        found = model_digest(folder)
        if self.required_digest not in (None, found):
            raise UserError(
                f"{WHAT}: the files in {folder} are not those that the latents are of: their SHA-256 is {found[:16]}..., "
                f"need {str(self.required_digest)[:16]}..."
            )
        return folder

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the files that define it."""
        return model_digest(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json. Raises UserError for another kind of network."""
        path = self.folder / CONFIG
        content = read_json(WHAT, path, Wanted(WHAT, DIFFUSERS).remedy())
        try:
            kind = content["_class_name"]
            sizes = content["in_channels"], content["out_channels"], content["latent_channels"], *content["block_out_channels"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{WHAT}: {path} is damaged or another kind of file") from error
        if kind != CLASS:
            raise UserError(f"{WHAT}: {self.folder} holds a network of type {kind}, not {CLASS}")
        if not all(isinstance(size, int) and size > 0 for size in sizes) or sizes[0] != sizes[1]:
            raise UserError(f"{WHAT}: {path} is damaged: it has channels {', '.join(map(str, sizes))}")
        return content

    @property
    def channels(self) -> int:
        """The channels of its images."""
        return self.config["in_channels"]

    @property
    def latent_channels(self) -> int:
        return self.config["latent_channels"]

    @property
    def factor(self) -> int:
        """The ratio of the resolutions of images and latents."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    def posterior(self, x: Tensor) -> Posterior:
        """Returns the posterior of images float32 [B, C, H, W] in [-1, 1]; independent of autocast and gradient mode."""
        model = self._loaded.to(x.device)
        with undisturbed(x.device):
            parts = [encode_posterior(model, part.float()) for part in x.split(batch_size(x.shape[2] * x.shape[3]))]
        return Posterior(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def decode(self, latents: Tensor) -> Tensor:
        """Returns images float32 [B, C, H, W], about in [-1, 1]."""
        model = self._loaded.to(latents.device)
        with undisturbed(latents.device):
            parts = latents.split(batch_size(latents.shape[2] * latents.shape[3] * self.factor**2))
            return torch.cat([model.decode(part.float()).sample for part in parts])

    @cached_property
    def _loaded(self) -> Any:
        return load_diffusers(WHAT, CLASS, self.folder)


def batch_size(pixels: int) -> int:
    """Returns how many images of so many pixels are processed at once, so that memory does not grow with the batch."""
    return max(1, PIXELS // pixels)


def model_digest(folder: Path) -> str:
    """Returns the SHA-256 of the configuration and the weights in a folder."""
    weights = next(name for name in DIFFUSERS.weights if (folder / name).is_file())
    return files_digest([folder / CONFIG, folder / weights])
