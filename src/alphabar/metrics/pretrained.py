"""What networks by Hugging Face's transformers have in common: where weights lie, what may be wrong with them, how images go in."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphabar.errors import UserError
from alphabar.metrics.extractor import Extractor, in_float32, own_randomness
from alphabar.models.resize import resize
from alphabar.runs.distributed import from_first

log = logging.getLogger(__name__)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the second cannot run code either: transformers reads nothing but tensors
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
HUB = "https://huggingface.co"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
INSTALL = "pip install 'alphabar[transformers]'"
MAX_BATCH = 32
TIMEOUT = 10.0  # seconds without an answer


class Colours(NamedTuple):
    """Mean and standard deviation of red, green and blue in 0..1, by which a network wants its images normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Kind(NamedTuple):
    """A kind of network.

    name: stands in the names of figures. usual: its usual model on the hub. class_name: of transformers. model_types: what its
    config.json may call it. colours: where the weights come without their own.
    """

    name: str
    usual: str
    class_name: str
    model_types: tuple[str, ...]
    colours: Colours


class Found(NamedTuple):
    """A folder as `save_pretrained` writes it; the hub's name of the model if it is one of the hub's."""

    folder: str
    hub_name: str | None


class Images(nn.Module):
    """uint8 [B, 1 or 3, H, W] -> float32 [B, 3, size, size], normalised; grey is repeated.

    Resized as Pillow does it, bicubic with antialiasing and rounded to whole grey levels, but on any device.
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


def pretrained(kind: Kind, weights: str | None) -> tuple[Any, Found]:
    """transformers' model, float32 and on the CPU, and where it was.

    The first process looks for it, downloads it if need be and loads it before the others do, so that what is wrong with it is
    said on all. Each loads the files itself.

    weights: a local folder or a name on the hub; None: the usual one.
    """
    loaded: list[Any] = []

    def find_and_load() -> Found:
        found = find(kind, weights)
        loaded.append(load(kind, found.folder))
        log.info("%s features: weights from %s", kind.name, found.folder)
        return found

    found = from_first(find_and_load)
    return (loaded[0] if loaded else load(kind, found.folder)), found


def extractor(
    kind: Kind, network: nn.Module, model: nn.Module, found: Found, num_features: int, images: Images, cache_dir: str
) -> Extractor:
    """Around a network that is the model and what goes before and after it.

    Only the hub's usual model bears the bare name: figures of others cannot be compared with it.
    """
    sha256 = digest(model)
    name = kind.name if found.hub_name == kind.usual else f"{kind.name}_{sha256[:8]}"
    mean, std = ("/".join(f"{value:.4g}" for value in values.flatten().tolist()) for values in (images.mean, images.std))
    record = (
        f"{kind.name} ({found.hub_name or 'own weights'}), {num_features} features, "
        f"resized to {images.size} bicubic with antialiasing, mean {mean}, std {std}, float32, weights {sha256[:16]}"
    )
    return Extractor(network, num_features, name, record, (1, 3), MAX_BATCH, Path(cache_dir))


def find(kind: Kind, weights: str | None) -> Found:
    """The folder with the weights, which are downloaded if they are the hub's and not there."""
    library()
    name = kind.usual if weights is None else weights
    folder = Path(name).expanduser()
    if weights is not None and folder.is_dir():
        return Found(str(folder), None)
    if weights is not None and (folder.exists() or not HUB_NAME.fullmatch(weights)):
        what = "is a file, not a folder as save_pretrained writes" if folder.exists() else "does not exist"
        raise UserError(f"{kind.name}: {folder} (features.weights) {what}; {remedy(kind.usual)}")
    return Found(str(from_hub(kind, name)), name)


def remedy(name: str) -> str:
    """What to do about missing weights."""
    return f"get {CONFIG} and {' or '.join(WEIGHTS)} of {HUB}/{name} into a folder and set features.weights=PATH"


def from_hub(kind: Kind, name: str) -> Path:
    """The folder of a hub model in the Hugging Face cache; asks the network only if something is missing there."""
    from huggingface_hub import constants, get_session

    if (cached := fetch(name, local=True)) is not None:
        return cached
    try:
        # The hub's client would try again for half a minute where there is no network.
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
        log.info("%s features: downloading %s/%s to %s", kind.name, HUB, name, constants.HF_HUB_CACHE)
        downloaded = fetch(name, local=False)
        reason = f"it has neither {' nor '.join(WEIGHTS)}"
    except Exception as error:  # of whatever kind: several libraries lie beneath
        downloaded, reason = None, first_sentence(error)
    if downloaded is None:
        where = f"is neither a local folder nor in {constants.HF_HUB_CACHE} and cannot be downloaded ({reason})"
        raise UserError(f"{kind.name}: the model {name} {where}; {remedy(name)}")
    return downloaded


def fetch(name: str, local: bool) -> Path | None:
    """The folder of a hub model with its configuration and weights, or None if it has no weights or, locally, not all is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def get(file: str) -> str | None:
        try:
            return hf_hub_download(name, file, local_files_only=local, etag_timeout=TIMEOUT)
        except LocalEntryNotFoundError:
            if local:
                return None
            raise  # the hub could not be asked
        except EntryNotFoundError:
            return None

    config = get(CONFIG)
    if config is None or not any(get(file) for file in WEIGHTS):
        return None
    get(PREPROCESSOR)
    return Path(config).parent


def load(kind: Kind, folder: str) -> Any:
    """The model in the folder, with all its weights."""
    model_type = read_json(kind, Path(folder) / CONFIG).get("model_type")
    if model_type not in kind.model_types:
        raise UserError(f"{kind.name}: {folder} holds a network of type {model_type}, not {' or '.join(kind.model_types)}")
    cls = getattr(library(), kind.class_name)
    try:
        with silence(), in_float32(torch.device("cpu")), own_randomness(0):
            model, info = cls.from_pretrained(folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True)
    except Exception as error:  # of whatever kind: any bytes may stand in a file
        raise UserError(f"{kind.name}: cannot read the weights in {folder} ({first_sentence(error)})") from error
    lacking = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if lacking:
        shown = ", ".join(lacking[:2]) + (f" and {len(lacking) - 2} more" if len(lacking) > 2 else "")
        raise UserError(f"{kind.name}: the weights in {folder} do not fit their {CONFIG}: missing or of another size are {shown}")
    return model.float()


def colours(kind: Kind, folder: str) -> Colours:
    """What the folder says of the images, or the kind's own."""
    path = Path(folder) / PREPROCESSOR
    if not path.is_file():
        return kind.colours
    content = read_json(kind, path)
    try:
        given = Colours(*(tuple(map(float, content[key])) for key in ("image_mean", "image_std")))
        if any(len(values) != 3 for values in given) or min(given.std) <= 0:
            raise ValueError("not three numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{kind.name}: {path} does not give image_mean and image_std as three numbers each") from error
    return given


def read_json(kind: Kind, path: Path) -> dict[str, Any]:
    """The mapping in a file."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError) as error:
        what = "is damaged or another kind of file" if path.is_file() else "does not exist"
        raise UserError(f"{kind.name}: {path} {what}; {remedy(kind.usual)}") from error
    return content


def digest(model: nn.Module) -> str:
    """SHA-256 of the values of all weights, in their order."""
    found = hashlib.sha256()
    for value in model.state_dict().values():
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def library() -> Any:
    """transformers, which only these features need and which takes seconds to import."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"dinov2 and clip features need Hugging Face's transformers: {INSTALL}") from error
    return transformers


@contextmanager
def silence() -> Iterator[None]:
    """Inside, transformers neither reports on what it loads, which `load` does in one line, nor draws bars."""
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


def first_sentence(error: Exception) -> str:
    """One line of what it says, or its name."""
    words = " ".join(str(error).split())
    return words.split(". ")[0].rstrip(".")[:200] or type(error).__name__
