"""The condition of each image by its index: from data, from images or from a user's prompts."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from alphabar.data import ImageSet
from alphabar.data.datamodule import ImageDataModule
from alphabar.diffusion.denoiser import Cond
from alphabar.diffusion.noise import ImageNoise, derive_seed
from alphabar.errors import UserError
from alphabar.files.paths import user_path
from alphabar.models.conditioners import Conditioner, NeedsCaptions

MAX_NAMED = 10  # classes in a message
SEED = derive_seed("condition")  # seeds the randomness in conditions that are made from data

Conditions = Callable[[Sequence[int]], Cond]
ImagesByIndex = Callable[[Sequence[int]], Tensor]


def null_conditions(conditioner: Conditioner) -> Conditions:
    """Returns the null condition for every image."""
    return lambda indices: conditioner.null(len(indices))


def dataset_conditions(conditioner: Conditioner, images: ImageSet) -> Conditions:
    """Returns conditions in which image i has that of image i of the data, modulo their number."""

    def conditions(indices: Sequence[int]) -> Cond:
        rows = torch.tensor(indices, dtype=torch.int64) % max(len(images), 1)
        batch = images.batch(rows) if conditioner.takes_images else images.metadata(rows)
        return conditioner.for_evaluation(batch, ImageNoise(SEED, indices))

    return conditions


def dataset_targets(conditioner: Conditioner, images: ImageSet, indices: Tensor) -> dict[str, Tensor]:
    """Returns the metadata that samples with the `dataset_conditions` of int64 indices [B] should match: {"label": ...} or
    {"caption": ...} [B]; empty for conditions that imply neither.

    """
    metadata = {} if conditioner.depicts is None else images.metadata(indices % len(images))
    return {name: ids for name, ids in metadata.items() if name == conditioner.depicts}


def attach_captions(conditioner: Conditioner, data: ImageDataModule) -> None:
    """Attaches the captions of the data to a conditioner. Raises UserError, with the reason if the data have none."""
    try:
        conditioner.attach_captions(data.captions)
    except NeedsCaptions as error:
        raise UserError(f"{error}{data.reason_for_none('captions')}") from error


def preview_images(data: ImageDataModule) -> ImageSet:
    """Returns the held-out images, or the training images if none are held out."""
    return data.held_out_set if len(data.held_out_set) else data.train_set


def evaluation_images(conditioner: Conditioner, data: ImageDataModule) -> ImageSet:
    """Returns the images whose conditions samples have that are compared with the training images.

    These are the training images too, except for models conditioned on images, which would copy what they are compared with.
    """
    return preview_images(data) if conditioner.takes_images else data.train_set


def image_conditions(conditioner: Conditioner, images: ImagesByIndex, seed: int) -> Conditions:
    """Returns conditions in which image i has that of `images([i])`, with randomness that depends on `seed` and i alone."""
    return lambda indices: conditioner.from_image(images(indices), ImageNoise(seed, indices))


def prompt_conditions(conditioner: Conditioner, prompts: Sequence[str], key: str) -> Conditions:
    """Returns conditions in which image i has prompt i, modulo their number.

    key: the configuration key that is named in the error. Raises UserError for prompts that are invalid for the model.
    """
    try:
        conditioner.from_prompts(list(dict.fromkeys(prompts)))
    except ValueError as error:
        classes = list(conditioner.classes or ())
        says_which = not classes or classes[0] in str(error)
        known = "" if says_which else f"; the classes are {', '.join(classes[:MAX_NAMED])}{', ...' * (len(classes) > MAX_NAMED)}"
        raise UserError(f"{key}: {error}{known}") from error
    return lambda indices: conditioner.from_prompts([prompts[index % len(prompts)] for index in indices])


def expand_labels(labels: Sequence[int | str] | int | str, classes: Sequence[str]) -> list[str]:
    """Returns the names of classes for "all", "0-9", 3, "cat" or ["cat", 5]; unknown labels are returned unchanged.

    A number is the index of a class, unless a class has it as its name. Raises ValueError if there are no labels.
    """
    if labels == "all":
        return list(classes)
    prompts: list[str] = []
    for part in map(str, [labels] if isinstance(labels, int | str) else labels):
        low, dash, high = (part, "", part) if part in classes else part.partition("-")
        if dash and low.isdecimal() and high.isdecimal() and int(low) <= int(high):
            prompts += [_class_name(str(label), classes) for label in range(int(low), int(high) + 1)]
        else:
            prompts.append(part if part in classes else _class_name(part, classes))
    if not prompts:
        raise ValueError("need labels=3, 'labels=[cat,dog]', labels=all or labels=0-9, got none")
    return prompts


def _class_name(number: str, classes: Sequence[str]) -> str:
    """Returns the name of the class with this index, or the text itself if it is no index."""
    return classes[int(number)] if number.isdecimal() and int(number) < len(classes) else number


def read_prompts(path: str, key: str = "prompts") -> list[str]:
    """Returns the lines of a text file that are not empty. Raises UserError if there are none. key: names the file in messages."""
    try:
        prompts = [line.strip() for line in user_path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}={path}: cannot be read as text ({type(error).__name__})") from error
    if not prompts:
        raise UserError(f"{key}={path}: there is no {key.removesuffix('s')} in this file, need one a line")
    return prompts


def read_vectors(path: str) -> list[str]:
    """Returns the vectors in a .npy file [N, D], or a text file with one a line, as prompts. Raises UserError if it is invalid."""
    if user_path(path).suffix != ".npy":
        return read_prompts(path, "vectors")
    try:
        vectors = np.lib.format.open_memmap(user_path(path), mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"vectors={path}: cannot be read ({' '.join(str(error).split())})") from error
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind not in "fiu":
        raise UserError(f"vectors={path}: need an array of numbers [N, D], got {vectors.dtype} {list(vectors.shape)}")
    return [vector_prompt(vector.tolist()) for vector in vectors]


def vector_prompt(vector: Sequence[float] | float) -> str:
    """Returns a vector or a number as a prompt, "0.3, 1.2", with the digits of single precision."""
    numbers = vector if isinstance(vector, Sequence) else [vector]
    return ", ".join(str(np.float32(number)) for number in numbers)
