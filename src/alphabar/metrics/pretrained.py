"""Features of image networks by Hugging Face's transformers: loading on all processes, preprocessing, and names of figures."""

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphabar.errors import UserError
from alphabar.metrics.extractor import Extractor
from alphabar.models.frozen import PREPROCESSOR, Colours, load_transformers, transformers_library
from alphabar.models.hub import CONFIG, HUB, Wanted, hub_folder, model_folder, read_json
from alphabar.models.resize import resize
from alphabar.runs.distributed import from_first

log = logging.getLogger(__name__)
EXTRA = "transformers"
MAX_BATCH = 32


class Kind(NamedTuple):
    """The kind of a pretrained network.

    name: the one in the names of figures. usual: its usual model on the hub. class_name: its class in transformers. model_types:
    what its config.json may call it. colours: the normalisation of images if the weights come without their own.
    """

    name: str
    usual: str
    class_name: str
    model_types: tuple[str, ...]
    colours: Colours

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.name, files=(PREPROCESSOR,), setting="set features.weights=PATH", example=f"{HUB}/{self.usual}")


class Found(NamedTuple):
    """A folder as `save_pretrained` writes it; the hub's name of the model if it is one of the hub's."""

    folder: Path
    hub_name: str | None


class Images(nn.Module):
    """Maps uint8 [B, 1 or 3, H, W] to float32 [B, 3, size, size], normalised; grey is repeated.

    Images are resized as Pillow does it, bicubic with antialiasing and rounded to whole grey levels, but on any device.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, colours: Colours) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(colours.mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(colours.std, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return (resize(images.expand(-1, 3, -1, -1), self.size) / 255 - self.mean) / self.std


def load_pretrained(kind: Kind, weights: str | None) -> tuple[Any, Found]:
    """Returns transformers' model, float32 and on the CPU, and where it was found.

    The first process finds, downloads and loads it before the others do, so that all of them raise its errors. Each process loads
    the files itself.

    weights: a local folder or a name on the hub; None: the usual one.
    """
    loaded: list[Any] = []

    def find_and_load() -> Found:
        found = find(kind, weights)
        loaded.append(_load(kind, found.folder))
        log.info("%s features: weights from %s", kind.name, found.folder)
        return found

    found = from_first(find_and_load)
    return (loaded[0] if loaded else _load(kind, found.folder)), found


def make_extractor(
    kind: Kind, network: nn.Module, model: nn.Module, found: Found, num_features: int, images: Images, cache_dir: str
) -> Extractor:
    """Returns the extractor around a network, which consists of the preprocessing and the model.

    Only the hub's usual model has the bare name, since figures of others cannot be compared with it.
    """
    sha256 = weights_digest(model)
    name = kind.name if found.hub_name == kind.usual else f"{kind.name}_{sha256[:8]}"
    mean, std = ("/".join(f"{value:.4g}" for value in values.flatten().tolist()) for values in (images.mean, images.std))
    record = (
        f"{kind.name} ({found.hub_name or 'own weights'}), {num_features} features, "
        f"resized to {images.size} bicubic with antialiasing, mean {mean}, std {std}, float32, weights {sha256[:16]}"
    )
    return Extractor(network, num_features, name, record, (1, 3), MAX_BATCH, Path(cache_dir))


def find(kind: Kind, weights: str | None) -> Found:
    """Returns the folder with the weights, which are downloaded if they are the hub's and not in the cache."""
    transformers_library(kind.name, EXTRA)
    if weights is None:
        return Found(hub_folder(kind.wanted, kind.usual), kind.usual)
    is_local = Path(weights).expanduser().is_dir()
    return Found(model_folder(kind.wanted, weights), None if is_local else weights)


def _load(kind: Kind, folder: Path) -> Any:
    model_type = read_json(kind.name, folder / CONFIG).get("model_type")
    if model_type not in kind.model_types:
        raise UserError(f"{kind.name}: {folder} holds a network of type {model_type}, not {' or '.join(kind.model_types)}")
    return load_transformers(kind.name, kind.class_name, folder, EXTRA)


def weights_digest(model: nn.Module) -> str:
    """Returns the SHA-256 of the values of all weights, in their order."""
    found = hashlib.sha256()
    for value in model.state_dict().values():
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()
