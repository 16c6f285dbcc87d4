"""Loads frozen networks of Hugging Face's libraries: all weights, in float32, without a trace in random states or logs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alphabar.errors import UserError
from alphabar.files.bounded_allocation import bounded_by_files
from alphabar.models.hub import CONFIG, first_sentence, read_json

PREPROCESSOR = "preprocessor_config.json"
MAX_LAYERS = 1000
UNUSED = "pooler."  # BERT's layer for a single vector, for which weights are often missing


class Colours(NamedTuple):
    """The mean and standard deviation of red, green and blue in 0..1, by which a network's images are normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


OPENAI_CLIP = Colours((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def transformers_library(what: str, extra: str = "text") -> Any:
    """Returns the module transformers, which takes seconds to import. Raises UserError if it is not installed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the forks of data loaders
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"{what}: needs Hugging Face's transformers: pip install 'alphabar[{extra}]'") from error
    return transformers


def diffusers_library(what: str) -> Any:
    """Returns the module diffusers, which takes seconds to import. Raises UserError if it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise UserError(f"{what}: needs Hugging Face's diffusers: pip install 'alphabar[diffusers]'") from error
    return diffusers


def load_transformers(what: str, class_name: str, folder: Path, extra: str = "text") -> Any:
    """Returns transformers' model in a folder, float32, frozen and on the CPU. Raises UserError, which begins with `what`."""
    with silence(what, extra):
        return _from_pretrained(what, getattr(transformers_library(what, extra), class_name), folder, ignore_mismatched_sizes=True)


def read_transformers_config(what: str, class_name: str, folder: Path) -> Any:
    """Returns the configuration of transformers' model in a folder. Raises UserError if there is none."""
    check_layers(what, folder)
    try:
        return getattr(transformers_library(what), class_name).config_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # any kind: a file may contain any bytes
        raise UserError(f"{what}: cannot read the {CONFIG} in {folder} ({first_sentence(error)})") from error


def load_diffusers(what: str, class_name: str, folder: Path) -> Any:
    """Returns diffusers' model in a folder, float32, frozen and on the CPU. Raises UserError, which begins with `what`."""
    return _from_pretrained(what, getattr(diffusers_library(what), class_name), folder, low_cpu_mem_usage=False)


def check_layers(what: str, folder: Path) -> None:
    """Raises UserError if the config.json of a folder asks for more layers than any network has, for which classes make lists."""
    contents = [read_json(what, folder / CONFIG)]
    contents += [part for part in contents[0].values() if isinstance(part, dict)]  # of the towers of a CLIP
    for key, value in [item for content in contents for item in content.items()]:
        if "layers" in key and isinstance(value, int) and value > MAX_LAYERS:
            raise UserError(f"{what}: {folder / CONFIG}: {key}: need at most {MAX_LAYERS} layers, got {value}")


def _from_pretrained(what: str, cls: Any, folder: Path, **options: bool) -> Any:
    check_layers(what, folder)
    try:
        weights = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
        with undisturbed(torch.device("cpu")), bounded_by_files(str(folder), weights):
            model, info = cls.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # any kind: a file may contain any bytes
        raise UserError(f"{what}: cannot read the weights in {folder} ({first_sentence(error)})") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(UNUSED))
    misfits = sorted([*missing, *(key for key, *_ in info["mismatched_keys"])])
    if misfits:
        shown = ", ".join(misfits[:2]) + (f" and {len(misfits) - 2} more" if len(misfits) > 2 else "")
        raise UserError(f"{what}: the weights in {folder} do not fit their {CONFIG}: missing or of another size are {shown}")
    return model.float().requires_grad_(False).eval()


def image_colours(what: str, folder: Path, default: Colours) -> Colours:
    """Returns the normalisation that the folder's preprocessor_config.json gives, or the default if it has no such file."""
    path = folder / PREPROCESSOR
    if not path.is_file():
        return default
    content = read_json(what, path)
    try:
        given = Colours(*(tuple(map(float, content[key])) for key in ("image_mean", "image_std")))
        if any(len(values) != 3 for values in given) or min(given.std) <= 0:
            raise ValueError("not three numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{what}: {path} does not give image_mean and image_std as three numbers each") from error
    return given


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Computes in float32 without gradients, autocast or inference mode inside, and restores the CPU's random state afterwards."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
            with torch.autocast(device.type, enabled=False):
                yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def silence(what: str = "transformers", extra: str = "text") -> Iterator[None]:
    """Stops transformers from logging and from drawing progress bars inside."""
    messages = transformers_library(what, extra).utils.logging
    verbosity, draws = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity(messages.CRITICAL + 1)
    messages.disable_progress_bar()
    try:
        yield
    finally:
        messages.set_verbosity(verbosity)
        if draws:
            messages.enable_progress_bar()
