"""Features of image networks by Hugging Face's transformers: loading on all processes, preprocessing, and names of figures."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.metrics import Extractor, Features, Splits
from alphabar.models.frozen import PREPROCESSOR, Colours, image_colours, load_transformers, transformers_library
from alphabar.models.hub import CONFIG, HUB, Wanted, hub_folder, model_folder, read_json
from alphabar.models.resize import resize
from alphabar.runs.processes.distributed import from_first

log = logging.getLogger(__name__)
EXTRA = "transformers"
MAX_BATCH = 32


class PretrainedKind(NamedTuple):
    """A kind of pretrained network.

    name: the one in the names of figures. default_model: its usual model on the hub. class_name: its class in transformers.
    model_types: what its config.json may call it. colours: the normalisation of images if the weights come without their own.
    image_size, num_features: return them for the configuration of a model. embed: returns the features [B, num_features] of the
    output of a model.
    """

    name: str
    default_model: str
    class_name: str
    model_types: tuple[str, ...]
    colours: Colours
    image_size: Callable[[Any], int]
    num_features: Callable[[Any], int]
    embed: Callable[[Any], Tensor]


@dataclass(frozen=True)
class PretrainedFeatures(Features, ABC):
    """The features of one pretrained network.

    weights: a local folder as `save_pretrained` writes it, or a name on the hub; None: the default model of the kind.
    cache_dir: the folder in which results for real images are cached.
    download: whether a model of the hub is fetched if it is not in the Hugging Face cache.
    """

    weights: str | None
    cache_dir: str
    download: bool = False

    @property
    @abstractmethod
    def kind(self) -> PretrainedKind: ...

    def extractors(self, splits: Splits) -> list[Extractor]:
        return [pretrained_extractor(self.kind, self.weights, self.cache_dir, self.download)]


class WeightsFolder(NamedTuple):
    """A folder as `save_pretrained` writes it; the hub's name of the model if it is one of the hub's."""

    path: Path
    hub_name: str | None


class Preprocessing(nn.Module):
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


class PretrainedNetwork(nn.Module):
    """Maps uint8 images [B, 1 or 3, H, W] to the features float32 [B, D] of a model of transformers."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, embed: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.embed = embed

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(self.model(self.preprocessing(images)))


def pretrained_extractor(kind: PretrainedKind, weights: str | None, cache_dir: str, download: bool) -> Extractor:
    """Returns the extractor of a pretrained network. All processes call it, so that all of them raise its errors.

    Only the hub's usual model has the bare name, since figures of others cannot be compared with it.

    weights: a local folder or a name on the hub; None: the usual one. download: whether a model of the hub is fetched.
    """
    model, folder = _load(kind, weights, download)
    size, num_features = kind.image_size(model.config), kind.num_features(model.config)
    preprocessing = Preprocessing(size, image_colours(kind.name, folder.path, kind.colours))
    sha256 = weights_sha256(model)
    name = kind.name if folder.hub_name == kind.default_model else f"{kind.name}_{sha256[:8]}"
    mean, std = ("/".join(f"{value:.4g}" for value in each.flatten().tolist()) for each in (preprocessing.mean, preprocessing.std))
    description = (
        f"{kind.name} ({folder.hub_name or 'own weights'}), {num_features} features, "
        f"resized to {size} bicubic with antialiasing, mean {mean}, std {std}, float32, weights {sha256[:16]}"
    )
    network = PretrainedNetwork(model, preprocessing, kind.embed)
    return Extractor(network, num_features, name, description, (1, 3), MAX_BATCH, user_path(cache_dir))


def _load(kind: PretrainedKind, weights: str | None, download: bool) -> tuple[Any, WeightsFolder]:
    """Returns transformers' model, float32 and on the CPU, and where it was found.

    The first process finds, downloads and loads it before the others do. Each process loads the files itself.
    """
    loaded: list[Any] = []

    def find_and_load() -> WeightsFolder:
        folder = _find_weights(kind, weights, download)
        loaded.append(_load_model(kind, folder.path))
        log.info("%s features: weights from %s", kind.name, folder.path)
        return folder

    folder = from_first(find_and_load)
    return (loaded[0] if loaded else _load_model(kind, folder.path)), folder


def _find_weights(kind: PretrainedKind, weights: str | None, download: bool) -> WeightsFolder:
    """Returns the folder with the weights, which are fetched, with `download`, if they are the hub's and not in the cache."""
    transformers_library(kind.name, EXTRA)
    wanted = Wanted(kind.name, files=(PREPROCESSOR,), setting="set features.weights=PATH", example=f"{HUB}/{kind.default_model}")
    if weights is None:
        return WeightsFolder(hub_folder(wanted, kind.default_model, download), kind.default_model)
    is_local = user_path(weights).is_dir()
    return WeightsFolder(model_folder(wanted, weights, download), None if is_local else weights)


def _load_model(kind: PretrainedKind, folder: Path) -> Any:
    model_type = read_json(kind.name, folder / CONFIG).get("model_type")
    if model_type not in kind.model_types:
        raise UserError(f"{kind.name}: {folder} holds a network of type {model_type}, not {' or '.join(kind.model_types)}")
    return load_transformers(kind.name, kind.class_name, folder, EXTRA)


def weights_sha256(model: nn.Module) -> str:
    """Returns the SHA-256 of the values of all weights, in their order."""
    content = hashlib.sha256()
    for value in model.state_dict().values():
        content.update(value.detach().contiguous().numpy().tobytes())
    return content.hexdigest()
